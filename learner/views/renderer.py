"""One view of one sample -> token ids and pixels: the same code in a thread and in a process."""

from collections.abc import Sequence
from typing import Literal

from PIL import Image

from common.config import TeacherSection
from common.errors import DataError
from common.images import ImageStore
from common.pictures import DECODE_ERRORS
from common.rendering import RenderedPrompt, Renderer
from common.types import Record, Sample
from common.views import pixelated, teacher_view

PIXELS_AT_ONCE = 2**24  # rendered in one call of the processor
# DataError, or the processor's own; StopIteration: more image tokens than pictures.
_RENDER_ERRORS = (
    ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    StopIteration, MemoryError,
)  # fmt: skip
ViewKey = tuple[str, str, int]


class ViewRequest(Record):
    """What to render. Two requests with one key give the same view."""

    kind: Literal["student", "teacher", "contrast"]
    sample: Sample
    problem: str  # with one "<image>"; the teacher's may hold more than the sample's
    seed: int  # places a random crop; 0 where nothing is random

    @property
    def key(self) -> ViewKey:
        return (self.sample.sample_id, self.kind, self.seed)


class ViewRenderer:
    """Opens the picture of a view and renders it. Not thread-safe.

    Args:
        teacher: which picture the teacher sees.
        contrast_pixels: side of the squares of the contrast view; None where there is none.
    """

    def __init__(
        self,
        renderer: Renderer,
        images: ImageStore,
        teacher: TeacherSection,
        contrast_pixels: int | None,
    ) -> None:
        self._renderer = renderer
        self._images = images
        self._teacher = teacher
        self._contrast_pixels = contrast_pixels

    def render(self, requests: Sequence[ViewRequest]) -> list[RenderedPrompt | DataError]:
        """A view that cannot be rendered gives a DataError in its place, not an exception."""
        found: list[RenderedPrompt | DataError | None] = [None] * len(requests)
        numbers: list[int] = []
        pictures: list[Image.Image] = []
        for number, request in enumerate(requests):
            try:
                pictures.append(self._picture(request))
                numbers.append(number)
            except DataError as error:
                found[number] = error
            except DECODE_ERRORS as error:  # of cutting or enlarging it
                found[number] = DataError(f"cannot be shown: {str(error) or repr(error)}")
        for part in _parts_of_similar_work(pictures):
            problems = [requests[number].problem for number in numbers[part]]
            prompts = self._prompts(problems, pictures[part])
            for number, prompt in zip(numbers[part], prompts, strict=True):
                found[number] = prompt
        return [prompt for prompt in found if prompt is not None]

    def teacher_picture(self, sample: Sample, seed: int) -> Image.Image:
        """Raises DataError when there is no evidence to show."""
        return teacher_view(sample, self._images, self._teacher, seed)

    def _picture(self, request: ViewRequest) -> Image.Image:
        if request.kind == "student":
            return self._images.open(request.sample.image)
        picture = self.teacher_picture(request.sample, request.seed)
        if request.kind == "teacher":
            return picture
        assert self._contrast_pixels is not None
        return pixelated(picture, self._contrast_pixels)

    def _prompts(
        self, problems: Sequence[str], pictures: Sequence[Image.Image]
    ) -> list[RenderedPrompt | DataError]:
        """All in one call; where that fails, one by one, so that one costs only itself."""
        try:
            return list(self._renderer.prompts(problems, pictures))
        except _RENDER_ERRORS as error:
            if len(problems) == 1:
                return [DataError(f"cannot be rendered: {str(error) or repr(error)}")]
            one_by_one = zip(problems, pictures, strict=True)
            return [self._prompts([problem], [picture])[0] for problem, picture in one_by_one]


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
