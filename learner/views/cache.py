"""Rendered views by key, bounded in bytes; those that will be needed next go last."""

from collections import OrderedDict
from collections.abc import Iterable

from learner.views.inputs import PromptView
from learner.views.renderer import ViewKey


class ViewCache:
    """Rendered views: those that `expect` names stay longest, then those used last.

    Not thread-safe.

    Args:
        limit_bytes: bytes of all views together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._views: OrderedDict[ViewKey, PromptView] = OrderedDict()
        self._expected: set[ViewKey] = set()
        self._used_bytes = 0
        self._expected_bytes = 0
        self._largest_bytes = 0

    def __contains__(self, key: ViewKey) -> bool:
        return key in self._views

    def take(self, key: ViewKey) -> PromptView | None:
        """The view, from now on not expected any more; it stays as long as there is room."""
        view = self._views.get(key)
        if view is not None:
            self._views.move_to_end(key)
        if key in self._expected:
            self._expected.discard(key)
            self._expected_bytes -= 0 if view is None else view.num_bytes
        return view

    def put(self, key: ViewKey, view: PromptView) -> None:
        """Keep a view; others, or it itself, make room."""
        self._remove(key)
        self._views[key] = view
        self._used_bytes += view.num_bytes
        self._expected_bytes += view.num_bytes if key in self._expected else 0
        self._largest_bytes = max(self._largest_bytes, view.num_bytes)
        while self._used_bytes > self._limit_bytes:
            self._remove(next((k for k in self._views if k not in self._expected), None))

    def expect(self, keys: Iterable[ViewKey]) -> None:
        """Name the views that will be taken soon: they are dropped only when no others are left."""
        self._expected = set(keys)
        self._expected_bytes = sum(
            view.num_bytes for key, view in self._views.items() if key in self._expected
        )

    def has_room_for(self, num_views: int) -> bool:
        """Whether `num_views` more expected views of the largest size so far would all be kept."""
        return self._expected_bytes + num_views * self._largest_bytes <= self._limit_bytes

    def _remove(self, key: ViewKey | None) -> None:
        """Drop a view; None means the one that was used longest ago."""
        if key is None:
            key = next(iter(self._views))
        view = self._views.pop(key, None)
        if view is not None:
            self._used_bytes -= view.num_bytes
            self._expected_bytes -= view.num_bytes if key in self._expected else 0
