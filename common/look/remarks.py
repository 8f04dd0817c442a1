"""What looks wrong in a dataset, with the rows and the fix.

Rows that cannot be used, a run leaves out. Nothing else stops one by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.config import DataSection, ModelSection
from common.look.survey import NO_BOX, Survey
from common.look.token_counts import NO_SIZE, TokenCounts
from common.picture_grid import MOST_ELONGATED

MAX_PROMPT_TOKENS = ModelSection().max_prompt_tokens
MAX_MEGAPIXELS = DataSection().max_picture_megapixels
_NEAR = 0.9  # share of a limit from which on a row is remarked on
_NAMED = 8  # rows
_THOUSAND = 1000
_MUCH_LARGER = 1500  # pixels of a picture's shorter side
_ENOUGH = 5  # much larger pictures without a box beyond a thousand: no accident
_NEARLY_ALL = 0.9  # share of a picture


@dataclass(frozen=True)
class Remark:
    """One line of the sheet."""

    problem: str
    fix: str
    rows: tuple[int, ...] = ()  # the first of them
    has_more: bool = False
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = ", ".join(map(str, self.rows)) + (", ..." if self.has_more else "")
        rows = f" (rows {named})" if self.rows else ""
        return f"{self.problem}{rows}. Fix: {self.fix}"


def remarks_of(found: Survey, counts: TokenCounts) -> list[Remark]:
    """All remarks on a dataset, the weightiest first."""
    checks: tuple[Callable[[Survey], Remark | None], ...] = (
        _refused,
        _no_size,
        _long_prompts,
        _large_pictures,
        _elongated,
        _thousandths,
        _unit_boxes,
        _no_evidence,
        lambda survey: _few_pixels(survey, counts.grid.unit),
        _boxes_of_everything,
        _asked_twice,
        _stored_twice,
        _unanswered,
    )
    remarks = [check(found) for check in checks] if found.num_good else [_refused(found)]
    return [remark for remark in remarks if remark is not None]


def _refused(found: Survey) -> Remark | None:
    if not found.num_bad:
        return None
    return Remark(
        f"{found.num_bad:,} of {found.num_bad + found.num_good:,} rows cannot be used",
        "correct them, or leave them out; a run does so up to data.max_refused_share",
        details=tuple(map(str, found.first_bad)),
    )


def _no_size(found: Survey) -> Remark | None:
    has_no_view = found.has_evidence & (found["teacher_tokens"] == NO_SIZE)
    is_odd = (found["student_tokens"] == NO_SIZE) | has_no_view
    problem = "have a picture or crop of a shape that the model's processor does not take"
    return _remark(found, is_odd, problem, "cut it to a less extreme shape")


def _long_prompts(found: Survey) -> Remark | None:
    tokens = np.maximum(found["student_tokens"], found["teacher_tokens"])
    limit = f"model.max_prompt_tokens = {MAX_PROMPT_TOKENS}, its default"
    fix = "make the picture smaller, shorten the problem, or raise the limit"
    return _near(found, tokens, MAX_PROMPT_TOKENS, "prompts", limit, fix)


def _large_pictures(found: Survey) -> Remark | None:
    pixels = np.maximum(
        found["width"] * found["height"], found["view_width"] * found["view_height"]
    )
    limit = f"data.max_picture_megapixels = {MAX_MEGAPIXELS:g}, its default"
    fix = "make the picture smaller, or raise the limit"
    return _near(found, pixels, MAX_MEGAPIXELS * 1e6, "pictures", limit, fix)


def _elongated(found: Survey) -> Remark | None:
    shapes = [(found[f"{of}width"], found[f"{of}height"]) for of in ("", "view_")]
    ratios = [np.maximum(w, h) / np.maximum(1, np.minimum(w, h)) for w, h in shapes]
    limit = f"one side {MOST_ELONGATED} times the other, which no processor takes more of"
    fix = "cut it to a less extreme shape"
    return _near(found, np.maximum(*ratios), MOST_ELONGATED, "pictures or crops", limit, fix)


def _near(
    found: Survey, values: np.ndarray, limit: float, what: str, words: str, fix: str
) -> Remark | None:
    """Remark on rows that are over a limit, or nearly so."""
    is_near = values > _NEAR * limit
    num_over = int((values > limit).sum())
    problem = f"have {what} over {_NEAR:.0%} of {words} ({num_over:,} are over it)"
    return _remark(found, is_near, problem, fix)


def _thousandths(found: Survey) -> Remark | None:
    is_boxed = found["x2"] != NO_BOX
    is_large = is_boxed & (np.minimum(found["width"], found["height"]) > _MUCH_LARGER)
    ends = np.maximum(found["x2"], found["y2"])[is_boxed]
    if is_large.sum() < _ENOUGH or ends.max() > _THOUSAND:
        return None
    problem = f"have pictures much larger than {_THOUSAND} pixels, yet no box reaches beyond it"
    fix = "if boxes are thousandths of the picture's sides, make them pixels"
    return _remark(found, is_large, f"{problem}: boxes look normalised", fix)


def _unit_boxes(found: Survey) -> Remark | None:
    is_boxed = found["x2"] != NO_BOX
    is_unit = (found["x2"] == 1) & (found["y2"] == 1)
    if not is_boxed.any() or not is_unit[is_boxed].all():
        return None
    problem = "have the box [0, 0, 1, 1], and no row has another one: boxes look like shares"
    return _remark(found, is_boxed, problem, "give [x1, y1, x2, y2] in pixels")


def _no_evidence(found: Survey) -> Remark | None:
    problem = "have neither a box nor a crop"
    fix = "give one, or choose views that need none"
    return _remark(found, ~found.has_evidence, problem, fix)


def _few_pixels(found: Survey, least: int) -> Remark | None:
    side = np.minimum(found["view_width"], found["view_height"])
    problem = f"have a teacher's view with a side of less than {least} pixels, a token's side"
    return _remark(
        found,
        found.has_evidence & (side < least),
        problem,
        "look at them: there may be nothing to see",
    )


def _boxes_of_everything(found: Survey) -> Remark | None:
    share = found["box_pixels"] / (found["width"] * found["height"])
    problem = f"have a box of more than {_NEARLY_ALL:.0%} of the picture"
    fix = "leave them out: the teacher sees what the student sees"
    return _remark(found, share > _NEARLY_ALL, problem, fix)


def _asked_twice(found: Survey) -> Remark | None:
    pairs = np.stack((found["content"], found["problem"]), axis=1)
    problem = "repeat a question about the same picture that an earlier row asks"
    return _remark(found, _is_repeated(pairs), problem, "leave them out, if they are no intention")


def _stored_twice(found: Survey) -> Remark | None:
    """The same picture under two paths: not an error, but evaluation sets leak in this way."""
    files = np.stack((found["content"], found["path"]), axis=1)
    is_first_of_file = ~_is_repeated(files)
    is_repeated = np.zeros(found.num_good, dtype=bool)
    is_repeated[is_first_of_file] = _is_repeated(files[is_first_of_file, :1])
    problem = "have a picture that an earlier row has under another path"
    return _remark(found, is_repeated, problem, "keep one file, if it is no intention")


def _unanswered(found: Survey) -> Remark | None:
    has_none = found["has_answer"] == 0
    problem = "have no answer"
    fix = "fill the column answer where accuracy is to be measured; training needs none"
    return _remark(found, has_none, problem, fix)


def _is_repeated(keys: np.ndarray) -> np.ndarray:
    """Whether each row of a table repeats an earlier one.

    Args:
        keys: [G, K].

    Returns:
        bool [G].
    """
    _, first = np.unique(keys, axis=0, return_index=True)
    is_repeated = np.ones(len(keys), dtype=bool)
    is_repeated[first] = False
    return is_repeated


def _remark(found: Survey, is_odd: np.ndarray, problem: str, fix: str) -> Remark | None:
    count = int(is_odd.sum())
    if not count:
        return None
    rows = tuple(found["row"][is_odd][:_NAMED].tolist())
    return Remark(f"{count:,} of {found.num_good:,} rows {problem}", fix, rows, count > _NAMED)
