"""One view of one sample -> token ids and pixels: the same code in a thread and in a process."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from PIL import Image

from common.errors import DataError
from common.images import ImageStore
from common.pictures import DECODE_ERRORS
from common.rendering import RenderedPrompt, Renderer
from common.types import Record, Sample
from common.views.contrast import pixelated
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import Shown, show

# DataError, or what the template, the tokenizer or the resizing raises.
_RENDER_ERRORS = (
    ValueError, OSError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError,
)  # fmt: skip
ViewKey = tuple[str, str, int]


class ViewRequest(Record):
    """What to render. Two requests with one key give the same view."""

    kind: Literal["student", "teacher", "contrast"]  # contrast: the teacher's, pixelated
    sample: Sample
    seed: int  # of what is drawn; 0 where nothing is
    answer: str | None = None  # a LABEL, for the view that shows it

    @property
    def key(self) -> ViewKey:
        return (self.sample.sample_id, self.kind, self.seed)


class ViewRenderer:
    """What opens the picture of a view and renders it. Not thread-safe.

    Args:
        settings: which views student and teacher see.
        contrast_pixels: side of the squares of the contrast view; None means no such view.
    """

    def __init__(
        self,
        renderer: Renderer,
        images: ImageStore,
        settings: ViewSettings,
        contrast_pixels: int | None,
    ) -> None:
        self._renderer = renderer
        self._images = images
        self._settings = settings
        self._contrast_pixels = contrast_pixels

    def render(self, requests: Sequence[ViewRequest]) -> list[RenderedPrompt | DataError]:
        """A view that cannot be rendered gives a DataError in its place, not an exception."""
        found: list[RenderedPrompt | DataError | None] = [None] * len(requests)
        numbers: list[int] = []
        all_shown: list[Shown] = []
        for number, request in enumerate(requests):
            try:
                all_shown.append(self._shown(request))
                numbers.append(number)
            except DataError as error:
                found[number] = error
            except DECODE_ERRORS as error:  # raised by cutting or enlarging it
                found[number] = DataError(f"cannot be shown: {str(error) or repr(error)}")
        for number, prompt in zip(numbers, self._prompts(all_shown), strict=True):
            found[number] = prompt
        return [prompt for prompt in found if prompt is not None]

    def teacher_picture(self, sample: Sample, seed: int) -> Image.Image:
        """The picture that the teacher is shown; DataError if there is no evidence to show."""
        view = view_named(self._settings.teacher)
        opened = self._images.open(view.source(sample))
        return view.picture(opened, sample, self._settings, seed)

    def _shown(self, request: ViewRequest) -> Shown:
        sample, settings = request.sample, self._settings
        view = view_named(settings.student if request.kind == "student" else settings.teacher)
        opened = self._images.open(view.source(sample))
        shown = show(view, opened, sample, settings, request.seed, request.answer)
        if request.kind != "contrast":
            return shown
        assert self._contrast_pixels is not None
        return replace(shown, picture=pixelated(shown.picture, self._contrast_pixels))

    def _prompts(self, all_shown: Sequence[Shown]) -> list[RenderedPrompt | DataError]:
        """Render all in one call; where that fails, one by one, so that one costs only itself."""
        try:
            problems = [shown.problem for shown in all_shown]
            return list(self._renderer.prompts(problems, [shown.picture for shown in all_shown]))
        except _RENDER_ERRORS as error:
            if len(all_shown) == 1:
                return [DataError(f"cannot be rendered: {str(error) or repr(error)}")]
            return [self._prompts([shown])[0] for shown in all_shown]
