"""The pictures of a row: looked at, baked, drawn on or cut as asked, and kept under their digest.

A picture that every viewer shows as we see it stays the file that it is. Others (turned by EXIF,
transparent, of 16 bits, of several frames) are baked: saved as the pixels of `common.pictures`,
8-bit RGB, upright, so that whatever reads the dataset later sees the same.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from common.bad_rows import BadField
from common.dataset_files import PICTURES, Row
from common.errors import DataError
from common.files import replacing
from common.picture_checks import read_picture_file
from common.picture_grid import check_shape
from common.pictures import DECODE_ERRORS, Decoded, decode_file, encode_png, reason_of
from common.prepare.boxes import in_pixels
from common.prepare.source import PictureSource, SourceRow
from common.types import Box
from common.views.kinds.red_box import with_red_box
from common.views.regions import evidence_cut

_SUFFIXES = {
    "PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
}  # fmt: skip
_JPEG_QUALITY = 95
Corners = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive


@dataclass(frozen=True)
class DrawnBox:
    """How the box is drawn into the student's picture."""

    line_pixels: int
    colour: str  # a name or code that Pillow's ImageColor reads: "red", "#ff0000"


@dataclass(frozen=True)
class Crops:
    """How the teacher's view is cut out of the clean picture (paper section 3)."""

    margin: float = 0.0  # share of the box's sides, added on each side
    scale: float = 2.0


@dataclass(frozen=True)
class Looks:
    """What is made of a row's pictures.

    Args:
        folder: the dataset's; None means that nothing is written.
        bakes: false: files are kept as they are, whatever they are.
        saved_as: format of the pictures that are made here; PNG keeps every pixel.
    """

    folder: Path | None
    bakes: bool = True
    red_box: DrawnBox | None = None
    crops: Crops | None = None
    saved_as: Literal["png", "jpeg"] = "png"


class Picture(NamedTuple):
    """A picture of the dataset."""

    path: str  # relative to the Parquet file's folder
    sha256: str
    width: int  # pixels, of the upright picture
    height: int


class _Looked(NamedTuple):
    source: PictureSource
    content: bytes
    decoded: Decoded


def dataset_row(source: SourceRow, looks: Looks) -> Row:
    """The Parquet row, after its pictures were put into the dataset's folder.

    Raises:
        BadField: a picture cannot be read, or the box is not in it.
    """
    image_field, _, box_field = source.fields
    looked = _look(source.image, image_field)
    clean = looked.decoded.picture
    box = None
    if source.box is not None:
        box = in_pixels(source.box, source.box_form, clean.size, box_field)
    crop = _crop(source, clean, box, looks)
    if looks.red_box is None:
        image = _keep(looked, looks)
    else:
        line, evidence = looks.red_box, _as_box(_needed(box, box_field))
        image = _save(with_red_box(clean, evidence, line.line_pixels, line.colour), looks)
    ours = {
        "sample_id": source.sample_id,
        "image": image.path,
        "image_sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "box": None if box is None else list(box),
        "crop": crop and crop.path,
        "crop_sha256": crop and crop.sha256,
        "crop_width": crop and crop.width,
        "crop_height": crop and crop.height,
        "problem": source.problem,
        "answer": source.answer,
    }
    return {**ours, **source.extra}


def _crop(
    source: SourceRow, clean: Image.Image, box: Corners | None, looks: Looks
) -> Picture | None:
    """The crop: a ready one, or one of the clean picture, as the line would be in a drawn one."""
    _, crop_field, box_field = source.fields
    if source.crop is not None:
        return _keep(_look(source.crop, crop_field), looks)
    if looks.crops is None or box is None:
        return None
    made = evidence_cut(clean, _as_box(box), looks.crops.margin, looks.crops.scale)
    try:
        check_shape(*made.size)
    except DataError as error:
        raise BadField.of(box_field, list(box), error) from None
    return _save(made, looks)


def _needed(box: Corners | None, field: str) -> Corners:
    if box is None:
        fix = "give the box that is to be drawn, or leave --red-box out"
        raise BadField(field, None, "nothing there", fix)
    return box


def _as_box(corners: Corners) -> Box:
    x1, y1, x2, y2 = corners
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


# ---- files ---------------------------------------------------------------------------------------
def _look(source: PictureSource, field: str) -> _Looked:
    """Look at a picture; BadField if it cannot be read, or is not whole."""
    content = source if isinstance(source, bytes) else read_picture_file(source, field)
    name = f"of {len(source)} bytes" if isinstance(source, bytes) else source.name
    try:
        looked = _Looked(source, content, decode_file(content, name))
        check_shape(*looked.decoded.picture.size)
        return looked
    except DataError as error:
        shown = source if isinstance(source, bytes) else str(source)
        raise BadField.of(field, shown, error, "save the picture anew") from None


def _keep(looked: _Looked, looks: Looks) -> Picture:
    if looks.bakes and not looked.decoded.is_plain:
        return _save(looked.decoded.picture, looks)
    kept = _named(looked.content, _SUFFIXES[looked.decoded.format], looked.decoded.picture)
    if looks.folder is not None:
        _put(looked, looks.folder / kept.path)
    return kept


def _save(picture: Image.Image, looks: Looks) -> Picture:
    content = encode_png(picture) if looks.saved_as == "png" else _encode_jpeg(picture)
    saved = _named(content, _SUFFIXES[looks.saved_as.upper()], picture)
    if looks.folder is not None:
        _write(content, looks.folder / saved.path)
    return saved


def _encode_jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    try:
        picture.save(content, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    except DECODE_ERRORS as error:  # a side over 65,500 pixels
        raise BadField("image", picture.size, reason_of(error), "use --save-as png") from None
    return content.getvalue()


def _named(content: bytes, suffix: str, picture: Image.Image) -> Picture:
    digest = hashlib.sha256(content).hexdigest()
    return Picture(f"{PICTURES}/{digest}{suffix}", digest, *picture.size)


def _put(looked: _Looked, target: Path) -> None:
    """Put the file itself there, by a hard link where possible. Raises OSError."""
    if isinstance(looked.source, bytes):
        _write(looked.content, target)
        return
    if target.exists():  # a file of that name has that content
        return
    try:
        os.link(looked.source.resolve(), target)
    except FileExistsError:  # another row has the same picture
        return
    except OSError:  # another file system, or one without links
        _write(looked.content, target)


def _write(content: bytes, target: Path) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    if target.exists():
        return
    with replacing(target, str(os.getpid())) as part:
        part.write_bytes(content)
