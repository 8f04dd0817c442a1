"""Checks of a good row before anything is generated: shapes of pictures, lengths of prompts.

Shapes and sizes as the row says them; `common.picture_checks` compares them with the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.bad_rows import BadField
from common.dataset import Numbered, check_tokens
from common.errors import DataError
from common.picture_grid import check_shape
from common.prompt_lengths import PromptLengths
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import shown_text
from common.views.view import Size, View

_MANY = 20  # boxes: so many tell what their unit is
_THOUSAND = 1000


@dataclass(frozen=True)
class SampleRules:
    """What a run can make use of.

    Args:
        lengths: counts prompts; None means that they are not counted.
    """

    views: ViewSettings
    max_pixels: int  # limit for a picture
    max_prompt_tokens: int
    control_tokens: tuple[str, ...] = ()  # texts that no problem may hold
    lengths: PromptLengths | None = None


def check_sample(sample: Sample, rules: SampleRules) -> None:
    """Refuse a sample that a run cannot use. Raises BadField."""
    check_tokens(sample.problem, rules.control_tokens)
    for key, name in (("student", rules.views.student), ("teacher", rules.views.teacher)):
        _check_view(sample, view_named(name), key, rules)


def check_all_boxes(found: Sequence[Numbered]) -> tuple[BadField | None, str | None]:
    """Check what the boxes of a whole set tell of their unit: an error of all, or a warning.

    Boxes of single pixels in the corner are shares of the sides, written as whole numbers. Boxes
    that never reach beyond 1000 in much larger pictures may be thousandths of the sides, or may
    not: then a warning is right, for such a set can be good.
    """
    boxed = [n.sample for n in found if n.sample.box is not None]
    ends = [(s.box.x2, s.box.y2) for s in boxed if s.box is not None]
    if len(boxed) > 1 and all(end == (1, 1) for end in ends):
        fix = "give [x1, y1, x2, y2] in pixels"
        return BadField(
            "box", [0, 0, 1, 1], "shares of the picture's sides, in all rows", fix
        ), None
    large = [s for s in boxed if min(s.image.width, s.image.height) > 1.5 * _THOUSAND]
    if len(large) >= _MANY and all(max(end) <= _THOUSAND for end in ends):
        return None, (
            f"box: no box of {len(boxed)} reaches beyond {_THOUSAND}, though {len(large)} pictures "
            "are much larger. Fix: if they are thousandths of the picture's sides, multiply them "
            "by its size: boxes are in pixels"
        )
    return None, None


def _size(sample: Sample, view: View, key: str, rules: SampleRules) -> Size:
    """The size of a view's picture; BadField if there is no evidence to show."""
    size = view.size(sample, rules.views)
    if size is not None:
        return size
    if sample.crop is None:
        fix = f"give the box of the evidence, or choose a {key}.view that needs none"
    else:
        fix = f"give the box, or choose a {key}.view that a crop is enough for"
    raise BadField("box", None, f"{key}.view = {view.name} needs it", fix)


def _check_view(sample: Sample, view: View, key: str, rules: SampleRules) -> None:
    width, height = _size(sample, view, key, rules)
    source = view.source(sample)
    field = "crop_width" if source is sample.crop else "width"
    if field == "width" and (width, height) != (source.width, source.height):
        field = "box"
    what = "the prompt" if key == "student" else "the teacher's prompt"
    shown = f"{width} x {height} pixels"
    if width * height > rules.max_pixels:
        fix = "make the picture smaller, or raise data.max_picture_megapixels"
        limit = f"{rules.max_pixels / 1e6:g} megapixels"
        raise BadField(field, _value(sample, field), f"a picture of {shown} is over {limit}", fix)
    try:
        check_shape(width, height)
        tokens = None
        if rules.lengths is not None:
            limit_tokens = rules.max_prompt_tokens
            problem = sample.problem if view.shows_answer else shown_text(view, sample, rules.views)
            tokens = rules.lengths.over(limit_tokens, problem, width, height)
    except DataError as error:
        raise BadField.of(field, _value(sample, field), error) from None
    if tokens is not None:
        fix = "shorten the problem, make the picture smaller, or raise the limit"
        problem = f"{what} of {tokens} tokens, with a picture of {shown}, is over "
        problem += f"model.max_prompt_tokens = {rules.max_prompt_tokens}"
        raise BadField("problem", sample.problem, problem, fix)


def _value(sample: Sample, field: str) -> object:
    """The value that the row has for a field."""
    if field == "box" and sample.box is not None:
        return list(sample.box.model_dump().values())
    picture = sample.crop if field == "crop_width" else sample.image
    return None if picture is None else picture.width
