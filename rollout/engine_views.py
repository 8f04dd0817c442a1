"""What engines are given of samples, kept for a while: a group may be tried again."""

import threading
from collections import OrderedDict
from typing import NamedTuple, Protocol

from common.errors import DataError
from common.images import picture_of
from common.types import ImageRef, Sample, ShownView
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import Shown, record_of, seed_for, show

_CACHE_BYTES = 64 * 2**20
_Key = tuple[str, str, int]


class ImageMaker(Protocol):
    """The part of common.rendering.Renderer that makes engines' images."""

    def engine_image(self, shown: Shown, content: bytes | None = None) -> tuple[bytes, str]: ...


class EngineView(NamedTuple):
    problem: str  # holds one "<image>"
    image: bytes  # an encoded file
    record: ShownView


class EngineViews:
    """The views that engines are given. Safe to use from several threads.

    Args:
        cache_bytes: size of the encoded images that are kept, those used last.
    """

    def __init__(
        self, renderer: ImageMaker, settings: ViewSettings, cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self._renderer = renderer
        self._settings = settings
        self._cache_bytes = cache_bytes
        self._used_bytes = 0
        self._views: OrderedDict[_Key, EngineView] = OrderedDict()
        self._lock = threading.Lock()

    def source(self, sample: Sample, name: str) -> ImageRef:
        """The picture whose file `make` needs."""
        return view_named(name).source(sample)

    def known(self, sample: Sample, name: str, seed: int) -> EngineView | None:
        key = _key(sample, name, seed)
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
            return self._views.get(key)

    def make(self, sample: Sample, name: str, seed: int, content: bytes) -> EngineView:
        """The view of a sample, as an engine is given it.

        Args:
            name: the view's name.
            content: the file behind `source`.

        Raises:
            DataError: it cannot be shown so.
        """
        view = view_named(name)
        ref = view.source(sample)
        opened = picture_of(ref, content)
        shown = show(view, opened, sample, self._settings, seed)
        try:
            file = content if shown.picture is opened else None
            image, sha256 = self._renderer.engine_image(shown, file)
        except DataError as error:
            raise DataError(f"image {ref.path}: {error}") from error
        record = record_of(name, self._settings, seed, sha256)
        return self._keep(_key(sample, name, seed), EngineView(shown.problem, image, record))

    def _keep(self, key: _Key, made: EngineView) -> EngineView:
        with self._lock:
            if key in self._views:
                self._used_bytes -= len(self._views.pop(key).image)
            self._views[key] = made
            self._used_bytes += len(made.image)
            while self._used_bytes > self._cache_bytes and len(self._views) > 1:
                self._used_bytes -= len(self._views.popitem(last=False)[1].image)
        return made


def _key(sample: Sample, name: str, seed: int) -> _Key:
    return (sample.sample_id, name, seed_for(view_named(name), seed))
