"""Rows as Vision-OPD-6K is published: one line of train.jsonl -> SourceRow. No file is read here.

    {"images": [full image with the red box], "teacher_images": [the enlarged crop],
     "original_images": [clean image], "bbox": [x1, y1, x2, y2], "problem": "<image>\\n...",
     "answer": "..."}

Paths are relative to the file's folder. The student sees images[0], or original_images[0] where the
clean picture is asked for, the teacher teacher_images[0]. The question stays as it is, with its
sentence about the red box. extra_info is not used. The sample is called after "id" or "sample_id"
where the line has one, else after the number of its line.
"""

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from common.bad_rows import BadField
from common.prepare.columns import PLACEHOLDER, box_in
from common.prepare.source import SourceRow

FILE = "train.jsonl"
_IMAGES = {"red_box": "images", "clean": "original_images"}
_ID_FIELDS = ("id", "sample_id")


def source_row(text: str, number: int, folder: Path, picture: str = "red_box") -> SourceRow:
    """Read one line of train.jsonl.

    Args:
        text: the line.
        number: the line's number, from 1.
        folder: its paths are relative to it.
        picture: the student's, red_box or clean.

    Raises:
        BadField: a field is missing or holds what it must not.
    """
    row = _object(text)
    image = _IMAGES[picture]
    return SourceRow(
        sample_id=_sample_id(row, number),
        problem=_problem(row.get("problem")),
        image=_path(row, image, folder),
        # Never cut out here: the red line would be in the crop.
        crop=_path(row, "teacher_images", folder),
        box=_box(row.get("bbox")),
        answer=_answer(row.get("answer")),
        fields=(image, "teacher_images", "bbox"),
    )


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise BadField(
            "line", text, f"not JSON ({error})", "write one JSON object a line"
        ) from None
    if not isinstance(row, dict):
        raise BadField("line", row, "not a JSON object", "write one JSON object a line")
    return row


def _path(row: dict[str, Any], field: str, folder: Path) -> Path:
    """The path in a list that holds one."""
    value = row.get(field)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str):
        raise BadField(field, value, "not a list of one path", 'write ["FOLDER/NAME.jpg"]')
    path = PurePosixPath(value[0])
    if path.is_absolute() or ".." in path.parts or "\0" in value[0]:
        raise BadField(field, value, "it leads out of the folder", "name a file inside it")
    return folder / path


def _box(value: object) -> tuple[int, int, int, int] | None:
    """The box in whole pixels, rounded outwards, so that the whole region stays inside."""
    box = box_in(value, "bbox")
    if box is None:
        return None
    if max(box) <= 1:
        fix = "give [x1, y1, x2, y2] in pixels"
        raise BadField("bbox", value, "shares of the picture's sides, it seems", fix)
    x1, y1, x2, y2 = box
    return math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)


def _problem(value: object) -> str:
    if not isinstance(value, str):
        raise BadField("problem", value, "not a text", f"write the question, with {PLACEHOLDER}")
    if value.count(PLACEHOLDER) != 1:
        count = value.count(PLACEHOLDER)
        fix = f"write {PLACEHOLDER} once, where the picture belongs"
        raise BadField("problem", value, f"{PLACEHOLDER} stands in it {count} times", fix)
    return value


def _answer(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadField("answer", value, "not a text", "write it in quotes, or leave it out")
    return value


def _sample_id(row: dict[str, Any], number: int) -> str:
    for field in _ID_FIELDS:
        value = row.get(field)
        if value is None:
            continue
        text = str(value) if isinstance(value, str | int) else ""
        if isinstance(value, bool) or not 1 <= len(text) <= 200:
            fix = "write a text of 1 to 200 characters, or leave it out"
            raise BadField(field, value, "not a name", fix)
        return text
    return f"line-{number:06d}"
