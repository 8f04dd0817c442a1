"""Which column of a foreign row is what, and what one cell of it may hold. Pure but for paths.

The forms that are read: a path; {"bytes", "path"} as `datasets` keeps an Image; a list of one of
these (verl's `images`); a question as text or as verl's chat list with one user turn; a box as four
numbers, or a list of one box. A dotted name reaches into a struct: reward_model.ground_truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.bad_rows import BadField
from common.dataset_paths import leaves
from common.errors import ConfigError
from common.prepare.boxes import Numbers
from common.prepare.source import Cells, PictureSource

PLACEHOLDER = "<image>"
# Looked for in this order; --column says otherwise.
KNOWN = {
    "id": ("sample_id", "id"),
    "picture": ("image", "images", "picture", "img", "image_path"),
    "question": ("problem", "question", "query", "prompt"),
    "box": ("box", "bbox", "bbox_2d"),
    "crop": ("crop", "teacher_images", "bbox_images", "crop_image"),
    "answer": ("answer", "reward_model.ground_truth"),
}
_NEEDED = ("picture", "question")


@dataclass(frozen=True)
class Columns:
    """The source's name for each thing; None means that there is no such column."""

    picture: str
    question: str
    id: str | None = None
    box: str | None = None
    crop: str | None = None
    answer: str | None = None

    def __str__(self) -> str:
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ", ".join(f"{name} = {column}" for name, column in pairs if column)

    @property
    def used(self) -> frozenset[str]:
        """The columns that are not kept under their own names."""
        found = (getattr(self, f.name) for f in fields(self))
        return frozenset(name for name in found if name and "." not in name)


def columns_of(names: Sequence[str], said: Mapping[str, str]) -> Columns:
    """Find out which column of the source is which of ours.

    Args:
        names: the columns of the whole set.
        said: what --column says: the source's name by ours.

    Raises:
        ConfigError: picture or question is nowhere, or what was said is not there.
    """
    for ours, theirs in said.items():
        if theirs.partition(".")[0] not in names:
            raise ConfigError(
                f"--column {ours}={theirs}: there is no such column. Fix: name one of "
                f"{_some(names)}"
            )
    known = {ours: [n for n in theirs if n.partition(".")[0] in names]
             for ours, theirs in KNOWN.items()}  # fmt: skip
    found = {ours: said.get(ours) or next(iter(theirs), None) for ours, theirs in known.items()}
    for ours in _NEEDED:
        if found[ours] is None:
            raise ConfigError(
                f"--input: no column is the {ours} by name ({', '.join(KNOWN[ours])}); there are "
                f"{_some(names)}. Fix: say which, with --column {ours}=NAME"
            )
    return Columns(**found)  # type: ignore[arg-type]


def cell(cells: Cells, column: str | None) -> Any:
    """The value of a column; None where there is none."""
    if column is None:
        return None
    value: Any = cells
    for part in (column,) if column in cells else column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


# ---- cells ---------------------------------------------------------------------------------------
def picture_in(value: Any, field: str, folder: Path) -> PictureSource:
    """The picture that a cell holds or names.

    Args:
        folder: paths are relative to it, and stay in it.

    Raises:
        BadField: no picture, or several.
    """
    fix = "give a path, or the bytes of a picture file"
    if isinstance(value, list):
        if len(value) != 1:
            raise BadField(field, value, f"{len(value)} pictures, not one", "give one picture")
        value = value[0]
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        value = path if content is None else content
    if value is None or value in ("", b""):
        raise BadField(field, value, "nothing there", fix)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise BadField(field, value, "no picture", fix)
    if "\0" in value or leaves(value, folder):
        problem = f"leads out of the folder of pictures {folder}"
        raise BadField(field, value, problem, "put it inside, or name another one with --images")
    return folder / value


def question_in(value: Any, field: str) -> str:
    """The text, with one "<image>" where the picture goes: at its head where it has none.

    Raises:
        BadField: no text, or a chat of more than a user's turn.
    """
    text = _turn(value, field) if isinstance(value, list) else value
    count = text.count(PLACEHOLDER) if isinstance(text, str) else 0
    if count > 1:
        fix = f"write {PLACEHOLDER} once, where the picture belongs, or not at all"
        raise BadField(field, value, f"{PLACEHOLDER} stands in it {count} times", fix)
    if not isinstance(text, str) or not text.replace(PLACEHOLDER, "").strip():
        raise BadField(field, value, "no question", "write the question, as text in UTF-8")
    return text if count else f"{PLACEHOLDER}\n{text}"


def box_in(value: Any, field: str) -> Numbers | None:
    """The four numbers of a box as they stand. Raises BadField."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        fix = "give four numbers, or nothing where a crop is given"
        raise BadField(field, value, "not four numbers", fix)
    a, b, c, d = map(float, value)
    return a, b, c, d


def answer_in(value: Any, field: str) -> str | None:
    """The answer; whole numbers count as text, a blank one as none. Raises BadField."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        fix = "write it in quotes, or leave it out"
        raise BadField(field, value, "neither a text nor a whole number", fix)
    return str(value) if str(value).strip() else None


def name_in(value: Any, field: str, number: int) -> str:
    """The name of a row; one without a name is called after its place. Raises BadField."""
    if value is None:
        return f"row-{number:06d}"
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        fix = "write a text or a whole number, or leave it out"
        raise BadField(field, value, "not a name", fix)
    return str(value)


def _turn(turns: list[Any], field: str) -> Any:
    """What the user says in a chat of that turn alone; its parts, where it has some, in a row."""
    if len(turns) != 1 or not isinstance(turns[0], Mapping) or turns[0].get("role") != "user":
        fix = "give one turn of the user, or name a column of text with --column question=NAME"
        raise BadField(field, turns, f"a chat of {len(turns)} turns, not of one user's", fix)
    content = turns[0].get("content")
    if not isinstance(content, list):
        return content
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if not isinstance(part, Mapping):
        return ""
    return PLACEHOLDER if part.get("type") == "image" else str(part.get("text") or "")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**31  # false for NaN; isfinite fails on the largest whole numbers


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) or "none"
