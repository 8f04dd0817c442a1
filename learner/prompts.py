"""Both views of samples as model inputs, rendered once and kept as long as there is room."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from common.config import TeacherSection
from common.errors import DataError
from common.images import ImageStore
from common.rendering import RenderedPrompt, Renderer
from common.types import Sample
from common.views import teacher_view
from learner.inputs import PromptView

CACHE_BYTES = 2**30
PIXELS_AT_ONCE = 2**24  # rendered in one call of the processor
MAX_KNOWN_POSITIONS = 1024
PromptPositions = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids, types, grid -> [3, P]


@dataclass(frozen=True)
class _Request:
    key: tuple[str, str, int]
    problem: str
    open: Callable[[], Image.Image]


class PromptViews:
    """Renders samples; not thread-safe (one each for the feed and for measuring).

    A sample that cannot be rendered gives a DataError in its place, not an exception.

    Args:
        teacher: which picture the teacher sees.
        positions: the model's rotary positions of one prompt.
    """

    def __init__(
        self,
        renderer: Renderer,
        images: ImageStore,
        teacher: TeacherSection,
        positions: PromptPositions,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._renderer = renderer
        self._images = images
        self._teacher = teacher
        self._positions = positions
        self._known_positions: dict[bytes, Tensor] = {}
        self._cache: OrderedDict[tuple[str, str, int], PromptView] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._used_bytes = 0

    def students(self, samples: Sequence[Sample]) -> list[PromptView | DataError]:
        """The full image and the question."""
        return self._views(
            [
                _Request(
                    (s.sample_id, "student", 0), s.problem, partial(self._images.open, s.image)
                )
                for s in samples
            ]
        )

    def teachers(
        self, samples: Sequence[Sample], seeds: Sequence[int]
    ) -> list[PromptView | DataError]:
        """The teacher's picture and the same question; a seed places a random crop."""
        is_random = self._teacher.view == "random_crop"
        return self._views(
            [
                _Request(
                    (sample.sample_id, "teacher", seed if is_random else 0),
                    sample.problem,
                    partial(self.teacher_picture, sample, seed),
                )
                for sample, seed in zip(samples, seeds, strict=True)
            ]
        )

    def teacher_picture(self, sample: Sample, seed: int) -> Image.Image:
        """Raises DataError when there is no evidence to show."""
        return teacher_view(sample, self._images, self._teacher, seed)

    def _views(self, requests: Sequence[_Request]) -> list[PromptView | DataError]:
        known = {r.key: self._cache[r.key] for r in requests if r.key in self._cache}
        for key in known:
            self._cache.move_to_end(key)
        found: dict[tuple[str, str, int], PromptView | DataError] = {**known}
        missing: list[_Request] = []
        pictures: list[Image.Image] = []
        for request in requests:
            if request.key in found:
                continue
            try:
                pictures.append(request.open())
                missing.append(request)
            except DataError as error:
                found[request.key] = error
        for part in _parts_of_similar_work(pictures):
            for request, view in zip(
                missing[part], self._render(missing[part], pictures[part]), strict=True
            ):
                found[request.key] = view
                if isinstance(view, PromptView):
                    self._keep(request.key, view)
        return [found[request.key] for request in requests]

    def _render(
        self, requests: Sequence[_Request], pictures: Sequence[Image.Image]
    ) -> list[PromptView | DataError]:
        """All in one call; where that fails, one by one, so that one costs only itself."""
        try:
            prompts = self._renderer.prompts([r.problem for r in requests], pictures)
        except (ValueError, OSError) as error:  # DataError, or the processor's own
            if len(requests) == 1:
                return [DataError(f"cannot be rendered: {error}")]
            one_by_one = zip(requests, pictures, strict=True)
            return [self._render([r], [picture])[0] for r, picture in one_by_one]
        return [self._view(prompt) for prompt in prompts]

    def _view(self, prompt: RenderedPrompt) -> PromptView:
        ids, types, grid = map(
            torch.from_numpy, (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw)
        )
        key = prompt.mm_token_type_ids.tobytes() + prompt.image_grid_thw.tobytes()
        if key not in self._known_positions:  # they depend on nothing else
            if len(self._known_positions) >= MAX_KNOWN_POSITIONS:
                self._known_positions.clear()
            self._known_positions[key] = self._positions(ids, types, grid)
        return PromptView(
            ids, self._known_positions[key], torch.from_numpy(prompt.pixel_values.copy()), grid
        )

    def _keep(self, key: tuple[str, str, int], view: PromptView) -> None:
        self._cache[key] = view
        self._used_bytes += view.num_bytes
        while self._used_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._used_bytes -= dropped.num_bytes


def derived_seed(run_seed: int, name: str) -> int:
    """A seed in [0, 2**31) of its own for everything that is drawn for `name`."""
    digest = hashlib.sha256(f"{run_seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _parts_of_similar_work(pictures: Sequence[Image.Image]) -> list[slice]:
    """Consecutive pictures, as many as PIXELS_AT_ONCE allows but at least one a part."""
    parts: list[slice] = []
    start, pixels = 0, 0
    for number, picture in enumerate(pictures):
        size = picture.width * picture.height
        if number > start and pixels + size > PIXELS_AT_ONCE:
            parts.append(slice(start, number))
            start, pixels = number, 0
        pixels += size
    return [*parts, slice(start, len(pictures))] if pictures else parts
