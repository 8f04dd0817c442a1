"""The columns of a dataset, and what one cell may hold. A cell that will not do is a BadField."""

import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from common.bad_rows import BadField
from common.dataset_paths import leaves
from common.parquet_rows import ColumnKind, Row
from common.types import Box, ImageRef

MAX_CHARACTERS = 1_000_000  # a longer problem fits into no model's context
_MAX_NAME = 200  # characters of a sample_id
_MAX_PATH = 4096  # characters
_MAX_PIXELS_A_SIDE = 2**20
_SHA256 = re.compile("[0-9a-f]{64}")
# What a terminal, a log or a file system would take for something else than text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or type_ == pa.string_view()
    )


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _is_numbers(type_: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )
    return is_list and (_is_number(type_.value_type) or pa.types.is_null(type_.value_type))


_TEXT = ColumnKind("text", "write the column as text", _is_text)
_PATH = ColumnKind(
    "text",
    "write each picture to a file beside the Parquet file, and its path into this column",
    _is_text,
)
_NUMBER = ColumnKind("whole numbers", "write the column as integers", _is_number)
KINDS = {
    "sample_id": ColumnKind(
        "text or whole numbers",
        "write the column as text",
        lambda type_: _is_text(type_) or _is_number(type_),
    ),
    "problem": _TEXT,
    "image": _PATH,
    "image_sha256": _TEXT,
    "width": _NUMBER,
    "height": _NUMBER,
    "box": ColumnKind("a list of numbers", "write [x1, y1, x2, y2] in pixels", _is_numbers),
    "crop": _PATH,
    "crop_sha256": _TEXT,
    "crop_width": _NUMBER,
    "crop_height": _NUMBER,
}
REQUIRED = ("sample_id", "problem", "image", "image_sha256", "width", "height")
WORDS = ColumnKind(
    "text or whole numbers",
    "write the column as text",
    lambda type_: _is_text(type_) or bool(pa.types.is_integer(type_)),
)


def sample_id_of(row: Row) -> str:
    """The name of a row. Whole numbers count as text: 17 and 17.0 are "17". Raises BadField."""
    value = row["sample_id"]
    if (number := _whole(value)) is not None:
        return str(number)
    name = _text(row, "sample_id")
    if not 1 <= len(name) <= _MAX_NAME:
        fix = f"write a name of 1 to {_MAX_NAME} characters"
        raise BadField("sample_id", name, f"a name of {len(name)} characters", fix)
    _check_printable("sample_id", name)
    return name


def problem_of(row: Row) -> str:
    """The question, with its one place for the picture. Raises BadField."""
    problem = _text(row, "problem")
    if len(problem) > MAX_CHARACTERS:
        raise BadField(
            "problem",
            problem,
            f"{len(problem)} characters, more than {MAX_CHARACTERS}",
            "shorten it",
        )
    if (count := problem.count("<image>")) != 1:
        fix = "write <image> once, where the picture belongs"
        raise BadField("problem", problem, f"<image> stands in it {count} times, not once", fix)
    return problem


def box_of(row: Row, width: int, height: int) -> Box | None:
    """The evidence; None where the row has no box.

    Args:
        width: the picture's, in pixels.

    Raises:
        BadField: not four whole numbers, or no rectangle in the picture.
    """
    value = row["box"]
    if value is None:
        return None
    fix = "give [x1, y1, x2, y2] in whole pixels"
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_finite, value)):
        raise BadField("box", value, "not four numbers", f"{fix}, or nothing beside a crop")
    sides = [number for number in map(_whole, value) if number is not None]
    if len(sides) < 4:
        if min(value) >= 0 and max(value) <= 1:
            raise BadField(
                "box", value, "shares of the picture's sides (0 to 1), it seems", f"{fix}"
            )
        raise BadField("box", value, "not whole numbers", f"{fix}: round x1, y1 down, x2, y2 up")
    x1, y1, x2, y2 = sides
    if x2 <= x1 or y2 <= y1:
        raise BadField("box", value, "no area", f"{fix}, with x1 < x2 and y1 < y2")
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise BadField(
            "box",
            value,
            f"reaches outside the picture of {width} x {height} pixels",
            f"{fix} of the picture as viewers show it; x2 and y2 are exclusive",
        )
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def picture_of_row(row: Row, field: str, prefix: str, folder: Path) -> ImageRef:
    """The picture that `field` names; prefix + "width" and so on are the columns beside it.

    Raises:
        BadField: its path leaves `folder`, or its digest or size is none.
    """
    path = _text(row, field)
    _check_path(field, path, folder)
    digest = _text(row, f"{field}_sha256")
    if not _SHA256.fullmatch(digest):
        fix = "write the file's SHA-256, 64 digits of 0-9 and a-f"
        raise BadField(f"{field}_sha256", digest, "no SHA-256", fix)
    width, height = (_side(row, f"{prefix}{side}") for side in ("width", "height"))
    return ImageRef(sha256=digest, path=path, width=width, height=height)


def words_of(row: Row, field: str) -> str | None:
    """The cell as text, or None for a blank one; whole numbers count as text. Raises BadField."""
    value = row[field]
    if value is None:
        return None
    words = str(value) if isinstance(value, int) else _text(row, field)
    return words if words.strip() else None


def _check_path(field: str, path: str, folder: Path) -> None:
    if not path:
        raise BadField(field, path, "no path", "name a file, or leave the cell empty (null)")
    if len(path) > _MAX_PATH:
        raise BadField(
            field, path, f"longer than {_MAX_PATH} characters", "give the file a shorter path"
        )
    _check_printable(field, path)
    if leaves(path, folder):
        fix = "name a file inside it, by a path without '..'"
        raise BadField(field, path, f"leads out of the dataset's folder {folder}", fix)


def _check_printable(field: str, text: str) -> None:
    if _CONTROL.search(text):
        raise BadField(field, text, "holds a control character", "take it out")


def _text(row: Row, field: str) -> str:
    value = row[field]
    if value is None:
        raise BadField(field, value, "nothing there", "fill it with text, or drop the row")
    if not isinstance(value, str):
        raise BadField(field, value, "not text", "write it as text, in UTF-8")
    return value


def _side(row: Row, field: str) -> int:
    value = row[field]
    if value is None:
        raise BadField(field, value, "nothing there", "give the picture's size in pixels")
    number = _whole(value)
    if number is None or not 1 <= number <= _MAX_PIXELS_A_SIDE:
        fix = "give the size of the upright picture, in pixels"
        raise BadField(field, value, "no number of pixels", fix)
    return number


def _whole(value: Any) -> int | None:
    """A whole number, also 12.0: columns become floats where a cell is empty. None for others."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _is_finite(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
