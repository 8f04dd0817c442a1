"""The full picture, and where the evidence is, in words (Where-OPD, arXiv 2610.02117).

Coordinates are thousandths of the picture's sides, as Qwen3-VL and Qwen3.5 write boxes.
"""

from common.errors import DataError
from common.types import Sample
from common.views.settings import ViewSettings
from common.views.texts import followed_by
from common.views.view import Size, View

_UNITS = 1000  # units of a side


class BoxText(View):
    roles = frozenset({"teacher"})

    def size(self, sample: Sample, settings: ViewSettings) -> Size | None:
        return None if sample.box is None else super().size(sample, settings)

    def text(self, problem: str, sample: Sample, settings: ViewSettings, answer: str | None) -> str:
        if sample.box is None:
            raise DataError(f"sample {sample.sample_id} has no box to describe")
        text = settings.box_text
        for name, value in _corners(sample).items():
            text = text.replace(f"{{{name}}}", str(value))
        return followed_by(problem, text, "teacher.box_text")


def _corners(sample: Sample) -> dict[str, int]:
    assert sample.box is not None
    sides = {"x": sample.image.width, "y": sample.image.height}
    corners = sample.box.model_dump()
    return {name: round(_UNITS * at / sides[name[0]]) for name, at in corners.items()}


VIEW = BoxText()
