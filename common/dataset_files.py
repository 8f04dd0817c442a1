"""Writes what `common.dataset` reads: Parquet rows, and pictures named by their content beside it.

A row is checked before it is written: its pictures decode, its box lies in the upright picture. The
form that rows come in is not known here (see `common.published_form`).
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bad_rows import BadField
from common.errors import DataError
from common.pictures import decode_picture

PICTURES = "pictures"  # folder beside the Parquet file
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
Row = dict[str, Any]


@dataclass(frozen=True)
class SourceRow:
    """One row of somebody's data, before its pictures were looked at."""

    sample_id: str
    problem: str  # with one "<image>"
    image: Path  # the student's view
    crop: Path | None  # a ready teacher's view
    box: tuple[int, int, int, int] | None  # x1, y1, x2, y2 in pixels of the upright image
    answer: str | None
    fields: tuple[str, str, str] = ("image", "crop", "box")  # what the source calls these


@dataclass(frozen=True)
class Picture:
    """A picture file that is in the dataset folder."""

    path: str  # relative to the Parquet file's folder
    sha256: str
    width: int  # pixels, of the upright picture
    height: int


def dataset_row(source: SourceRow, folder: Path) -> Row:
    """The Parquet row, after its pictures were put into `folder`.

    Raises:
        BadField: a picture cannot be read, or the box is not in it.
    """
    image_field, crop_field, box_field = source.fields
    image = add_picture(source.image, folder, image_field)
    crop = None if source.crop is None else add_picture(source.crop, folder, crop_field)
    if source.box is not None:
        _check_box(source.box, image, box_field)
    return {
        "sample_id": source.sample_id,
        "image": image.path,
        "image_sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "box": None if source.box is None else list(source.box),
        "crop": crop and crop.path,
        "crop_sha256": crop and crop.sha256,
        "crop_width": crop and crop.width,
        "crop_height": crop and crop.height,
        "problem": source.problem,
        "answer": source.answer,
    }


def add_picture(path: Path, folder: Path, field: str) -> Picture:
    """Puts a picture file into a dataset folder, unchanged: a hard link where that is possible.

    Raises:
        BadField: it cannot be read, or is no whole picture.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadField(field, str(path), f"{error.strerror}", "restore the file") from None
    try:
        width, height = decode_picture(content, path.name).size
    except DataError as error:
        raise BadField.of(field, str(path), error, "save the picture anew") from None
    digest = hashlib.sha256(content).hexdigest()
    suffix = path.suffix.lower()
    name = f"{PICTURES}/{digest}{suffix if suffix in _SUFFIXES else ''}"
    _link(path.resolve(), folder / name)
    return Picture(name, digest, width, height)


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """A Parquet file of rows with the columns of `common.dataset`; whole or not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema()), part)
    os.replace(part, path)


def schema() -> Any:
    """pyarrow's schema of a dataset."""
    import pyarrow as pa

    text, pixels = pa.string(), pa.int32()
    return pa.schema(
        [
            ("sample_id", text),
            ("image", text),
            ("image_sha256", text),
            ("width", pixels),
            ("height", pixels),
            ("box", pa.list_(pixels)),
            ("crop", text),
            ("crop_sha256", text),
            ("crop_width", pixels),
            ("crop_height", pixels),
            ("problem", text),
            ("answer", text),
        ]
    )


def _check_box(box: tuple[int, int, int, int], image: Picture, field: str) -> None:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
        size = f"{image.width} x {image.height}"
        raise BadField(
            field,
            list(box),
            f"no rectangle inside the upright picture of {size} pixels",
            "give x1, y1, x2, y2 in pixels of the picture as viewers show it, with x1 < x2 and "
            "y1 < y2",
        )


def _link(source: Path, target: Path) -> None:
    """Raises OSError. A file of that name has that content."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:  # another row has the same picture
        return
    except OSError:  # another file system, or one without links
        part = target.with_name(f".{target.name}.{os.getpid()}.{id(target)}.part")
        shutil.copyfile(source, part)
        os.replace(part, target)
