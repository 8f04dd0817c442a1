"""One foreign row after its cells were read, before its pictures are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.prepare.boxes import PIXELS, BoxForm, Numbers

PictureSource = Path | bytes  # a file, or what such a file holds
Cells = Mapping[str, Any]


@dataclass(frozen=True)
class SourceRow:
    """What a row says; `dataset_row` makes the dataset's row of it."""

    sample_id: str
    problem: str  # holds one "<image>"
    image: PictureSource  # the student's view
    crop: PictureSource | None  # a ready teacher's view
    box: Numbers | None  # in the upright image, as `box_form` says
    answer: str | None
    fields: tuple[str, str, str] = ("image", "crop", "box")  # what the source calls these
    box_form: BoxForm = PIXELS
    extra: Cells = field(default_factory=dict)  # other columns, kept as they are
