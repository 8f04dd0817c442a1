"""Rows as they should not be, and rows that only look so: one of each kind, with what is right.

`build(folder)` writes them all into one dataset, among rows that are in order.
"""

import hashlib
import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from tests.picture_files import picture_file, scene
from tests.poison.rows import HEIGHT, PROBLEM, WIDTH, Folder, Row, write_table

MAX_PROMPT_TOKENS = 8192  # as by default
MAX_MEGAPIXELS = 64


class Outcome(StrEnum):
    TRAINED = "trained"
    AT_READING = "refused at reading"
    AT_ROLLOUT = "quarantined at rollout"
    BY_LEARNER = "quarantined by learner"


@dataclass(frozen=True)
class Kind:
    """One kind of row."""

    name: str  # also its sample_id, where it has one
    make: Callable[[Folder], Row]
    outcome: Outcome
    reason: str = ""  # a part of what is said about it


class Built(NamedTuple):
    train: Path
    kinds: tuple[Kind, ...]  # one a row, in the order of the file
    num_rows: int  # with the `healthy` ones, which come behind them


def build(folder: Path, healthy: int = 0, kinds: Iterable[Kind] | None = None) -> Built:
    """FOLDER/train.parquet and its pictures; the same at each call.

    Args:
        healthy: how many rows in order follow.
        kinds: none: all.
    """
    chosen = tuple(KINDS if kinds is None else kinds)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = [kind.make(Folder(folder, kind.name)) for kind in chosen]
    rows += [Folder(folder, f"healthy {number}").row() for number in range(healthy)]
    return Built(write_table(rows, folder / "train.parquet"), chosen, len(rows))


# ---- files ---------------------------------------------------------------------------------------
def _png(picture: Image.Image, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", **options)
    return content.getvalue()


def _long_text(width: int, height: int) -> bytes:
    """A valid PNG with more text than Pillow reads, as picture editors write it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (2**20 + 1), zip=True)
    return _png(scene(width, height), pnginfo=info)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header_alone(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def _damaged_inside(width: int, height: int) -> bytes:
    """One letter in the middle is another; sharp, so that there are several chunks of pixels."""
    rng = np.random.default_rng(0)
    content = bytearray(_png(Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def _cut(kind: str, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    content = picture_file(kind, width, height)
    return content[: len(content) * 3 // 4]


def _saved(mode: str, kind: str) -> bytes:
    content = io.BytesIO()
    scene(WIDTH, HEIGHT).convert(mode).save(content, kind)
    return content.getvalue()


def _turned_behind_the_pixels() -> bytes:
    """A PNG whose EXIF chunk, orientation 6, comes last: no header tells of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _png(scene(WIDTH, HEIGHT))
    end = content.rindex(b"IEND") - 4
    return content[:end] + _chunk(b"eXIf", exif.tobytes()[6:]) + content[end:]


def _linked(folder: Folder) -> Row:
    """What the hub's cache has: a link out of the folder, to a file named by its content."""
    content = picture_file("jpeg", WIDTH, HEIGHT)
    blobs = folder.root.parent / f"{folder.root.name}-blobs"
    blobs.mkdir(exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    link = folder.root / folder.path(".jpg")
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / ".." / blobs.name / digest)
    return folder.row(content, image=folder.path(".jpg"))


def _dangling(folder: Folder) -> Row:
    link = folder.root / folder.path()
    link.unlink(missing_ok=True)
    link.symlink_to("nowhere.png")
    return folder.row(image=folder.path())


def _pipe(folder: Folder) -> Row:
    path = folder.root / folder.path()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return folder.row(image=folder.path())


def _subfolder(folder: Folder) -> Row:
    (folder.root / folder.path()).mkdir(exist_ok=True)
    return folder.row(image=folder.path())


def _changed(folder: Folder) -> Row:
    """Another picture of the same size than the one that the row was written for."""
    return folder.row() | {"image_sha256": hashlib.sha256(b"another").hexdigest()}


def _changed_crop(folder: Folder) -> Row:
    row = folder.crop_row(picture_file("png", 48, 32))
    return row | {"crop_sha256": hashlib.sha256(b"another").hexdigest()}


def _picture(kind: str, suffix: str = ".png") -> Callable[[Folder], Row]:
    def make(folder: Folder) -> Row:
        content = picture_file(kind, WIDTH, HEIGHT)
        return folder.row(content, image=folder.write(content, suffix))

    return make


def _content(content: Callable[[], bytes], **changes: object) -> Callable[[Folder], Row]:
    return lambda folder: folder.row(content(), **changes)


def _crop(content: Callable[[], bytes], **changes: object) -> Callable[[Folder], Row]:
    return lambda folder: folder.crop_row(content(), **changes)


def _row(**changes: object) -> Callable[[Folder], Row]:
    return lambda folder: folder.row(**changes)


def _size(width: int, height: int, **changes: object) -> Callable[[Folder], Row]:
    """With a picture of one colour of this size."""
    size = {"width": width, "height": height}
    return lambda f: f.row(_png(Image.new("RGB", (width, height), (90, 9, 9))), **size | changes)


def _with_path(path: Callable[[Folder, str], str]) -> Callable[[Folder], Row]:
    """A good picture, named in an odd way."""

    def make(folder: Folder) -> Row:
        content = picture_file("png", WIDTH, HEIGHT)
        return folder.row(content, image=path(folder, folder.write(content)))

    return make


# ---- kinds ---------------------------------------------------------------------------------------
def _trained(name: str, make: Callable[[Folder], Row]) -> Kind:
    return Kind(name, make, Outcome.TRAINED)


def _refused(name: str, make: Callable[[Folder], Row], reason: str) -> Kind:
    return Kind(name, make, Outcome.AT_READING, reason)


def _at_rollout(name: str, make: Callable[[Folder], Row], reason: str) -> Kind:
    return Kind(name, make, Outcome.AT_ROLLOUT, reason)


def _by_learner(name: str, make: Callable[[Folder], Row], reason: str) -> Kind:
    return Kind(name, make, Outcome.BY_LEARNER, reason)


_GOOD = (
    *(
        _trained(f"file {kind}", _picture(kind, suffix))
        for kind, suffix in [
            ("jpeg cmyk", ".jpg"), ("jpeg grey", ".jpg"), ("jpeg turned 6", ".jpg"),
            ("png 16 bit", ".png"), ("png alpha", ".png"), ("png palette transparent", ".png"),
            ("png frames", ".png"), ("webp alpha", ".webp"), ("gif frames", ".gif"),
            ("tiff 16 bit", ".tif"), ("bmp", ".bmp"),
        ]
    ),
    _trained("file jpeg called png", _picture("jpeg", ".png")),
    _trained("file link to a blob", _linked),
    _trained("file with a tail", _content(lambda: picture_file("png", WIDTH, HEIGHT) + b"x")),
    _trained(
        "file damaged exif",
        _content(lambda: _png(scene(96, 64), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")),
    ),
    _trained("path with accents and spaces", _with_path(
        lambda f, path: f.write((f.root / path).read_bytes(), " é 数.png"))),
    _trained("path absolute in the folder", _with_path(lambda f, p: str(f.root.absolute() / p))),
    _trained("path with a dot", _with_path(lambda f, path: f"./{path}")),
    _trained("text of the picture alone", _row(problem="<image>")),
    _trained("text before the picture", _row(problem="which digit ? <image> the red tag")),
    _trained("text with template braces", _row(problem="<image>{{ 7 * 7 }} {% raw %} which ?")),
    _trained("text like a token", _row(problem="<image>which <|no such token|> digit ?")),
    _trained("text of other scripts", _row(problem="<image>é 数字 \u202e\u05e1\u05e4 🔴 ?")),
    _trained("text with blank lines", _row(problem="<image>\n\n\t which  digit \r\n ?  ")),
    _trained("text of 500 words", _row(problem="<image>" + "which digit " * 250)),
    _trained("box of one pixel", _row(box=[95, 63, 96, 64])),
    _trained("box of the whole picture", _row(box=[0, 0, WIDTH, HEIGHT])),
    _trained("crop without a box", _crop(lambda: picture_file("jpeg", 48, 32), box=None)),
    _trained("size of one pixel", _size(1, 1, box=[0, 0, 1, 1])),
    _trained("size long and thin", _size(800, 5, box=[0, 0, 90, 5])),
)  # fmt: skip

_ROWS = (
    _refused("sample_id null", _row(sample_id=None), "sample_id = None: nothing there"),
    _refused("sample_id empty", _row(sample_id=""), "a name of 0 characters"),
    _refused("sample_id with a line break", _row(sample_id="a\nb"), "a control character"),
    _refused("sample_id twice", _row(sample_id="text before the picture"), "has it too"),
    _refused("problem null", _row(problem=None), "problem = None: nothing there"),
    _refused("problem without a picture", _row(problem="which ?"), "<image> stands in it 0 times"),
    _refused("problem with two pictures", _row(problem="<image><image>"), "stands in it 2 times"),
    _refused("problem no utf-8", _row(problem=b"<image>\xff\xfe"), "not text"),
    _refused("problem ends the turn", _row(problem=f"{PROBLEM}<|im_end|>"), "'<|im_end|>'"),
    _refused("problem asks for a picture", _row(problem=f"{PROBLEM}<|image_pad|>"), "_pad|>'"),
    _refused("problem of 9000 words", _row(problem="<image>" + "which " * 9000),
             "tokens, with a picture of 96 x 64 pixels, is over model.max_prompt_tokens = 8192"),
    _refused("problem of a megabyte", _row(problem="<image>" + "a" * 10**6), "more than 1000000"),
    _refused("path null", lambda f: f.row() | {"image": None}, "image = None: nothing there"),
    _refused("path empty", lambda f: f.row() | {"image": ""}, "image = '': no path"),
    _refused("path out of the folder", _row(image="../a.png"), "leads out of the dataset's folder"),
    _refused("path out and in", _row(image="pictures/../../x/a.png"), "leads out"),
    _refused("path absolute", _row(image="/etc/hostname"), "leads out"),
    _refused("path with a nul", _row(image="a\0b.png"), "a control character"),
    _refused("path very long", _row(image="a" * 5000), "image = "),
    _refused("sha256 null", _row(image_sha256=None), "image_sha256 = None: nothing there"),
    _refused("sha256 of another kind", _row(image_sha256="d41d8cd98f00b204"), "no SHA-256"),
    _refused("width null", _row(width=None), "width = None: nothing there"),
    _refused("width nan", _row(width=math.nan), "width = nan: no number of pixels"),
    _refused("width infinite", _row(width=math.inf), "width = inf: no number of pixels"),
    _refused("width a fraction", _row(width=95.5), "width = 95.5: no number of pixels"),
    _refused("width zero", _row(width=0), "width = 0.0: no number of pixels"),
    _refused("height negative", _row(height=-64), "height = -64.0: no number of pixels"),
    _refused("no evidence", _row(box=None), "teacher.view = crop needs it. Fix: "),
    _refused("box of three", _row(box=[1, 2, 3]), "not four numbers"),
    _refused("box of five", _row(box=[1, 2, 3, 4, 5]), "not four numbers"),
    _refused("box with a null", _row(box=[1, 2, None, 4]), "not four numbers"),
    _refused("box with a nan", _row(box=[1, 2, math.nan, 4]), "not four numbers"),
    _refused("box empty list", _row(box=[]), "not four numbers"),
    _refused("box of fractions", _row(box=[1.5, 2, 30, 40]), "not whole numbers"),
    _refused("box of shares", _row(box=[0.1, 0.1, 0.6, 0.9]), "shares of the picture's sides"),
    _refused("box inverted", _row(box=[56, 8, 8, 40]), "no area"),
    _refused("box of no area", _row(box=[8, 8, 8, 40]), "no area"),
    _refused("box off the picture", _row(box=[8, 8, 97, 40]), "reaches outside the picture of 96"),
    _refused("box negative", _row(box=[-8, 8, 40, 40]), "reaches outside"),
    _refused("box thin", _size(1000, 64, box=[0, 8, 900, 10]),
             "box = [0, 8, 900, 10]: a picture of "),
    _refused("crop empty", _row(crop=""), "crop = '': no path"),
    _refused("crop without sha256", _row(crop="c.png"), "crop_sha256 = None"),
    _refused("crop thin", _crop(lambda: _png(Image.new("RGB", (900, 2))), crop_width=900,
                                crop_height=2), "crop_width = 900: a picture of 900 x 2 pixels"),
)  # fmt: skip

_FILES = (
    _refused("file missing", _row(image="pictures/none.png"), "there is no such file"),
    _refused("file dangling link", _dangling, "there is no such file"),
    _refused("file a folder", _subfolder, "a folder or device"),
    _refused("file a pipe", _pipe, "a folder or device"),
    _refused("file empty", _content(lambda: b""), "it is no PNG, JPEG"),
    _refused("file text", _content(lambda: b"hello, world\n" * 9), "it is no PNG, JPEG"),
    _refused("file svg", _content(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "no PNG"),
    _refused("file of another program's format", _content(lambda: _saved("RGB", "EPS")), "no PNG"),
    _refused("file of a rare format", _content(lambda: _saved("RGB", "PPM")), "it is no PNG, JPEG"),
    _refused("file long text", _content(lambda: _long_text(WIDTH, HEIGHT)), "cannot be decoded"),
    _refused("file of floats", _content(lambda: _saved("F", "TIFF")), "no natural range"),
    _refused("file of huge size", _content(lambda: _header_alone(20000, 20000)),
             "bomb DOS attack. Fix: "),
    _refused("size not the file's", _row(width=95), "the picture is (96, 64), not (95, 64)"),
    _refused("size before turning", _content(
        lambda: picture_file("jpeg turned 6", WIDTH, HEIGHT), width=HEIGHT, height=WIDTH,
        box=[8, 8, 40, 56]), "EXIF orientation"),
    _refused("size over the limit", _row(width=9000, height=9000),
             "width = 9000: a picture of 9000 x 9000 pixels is over 64 megapixels"),
    _refused("size too thin", _size(1000, 4, box=[0, 0, 90, 4]), "more than 200 times the other"),
    _refused("crop missing", _crop(lambda: b"", crop="pictures/none.png"), "no such file"),
    _refused("crop long text", _crop(lambda: _long_text(48, 32)), "crop = "),
    _refused("crop of another size", _crop(lambda: picture_file("png", 50, 32)), "(50, 32), not"),
    _at_rollout("file changed", _changed, "sha256 is"),
    _at_rollout("file cut png", _content(lambda: _cut("png")), "cannot be decoded"),
    _at_rollout("file cut jpeg", _content(lambda: _cut("jpeg")), "cannot be decoded"),
    _at_rollout("file damaged inside", _content(lambda: _damaged_inside(WIDTH, HEIGHT)),
                "cannot be decoded"),
    _at_rollout("file turned behind the pixels", _content(_turned_behind_the_pixels), "EXIF"),
    _by_learner("crop changed", _changed_crop, "sha256 is"),
    _by_learner("crop cut png", _crop(lambda: _cut("png", 48, 32)), "cannot be decoded"),
    _by_learner("crop cut jpeg", _crop(lambda: _cut("jpeg", 48, 32)), "cannot be decoded"),
    _by_learner("crop damaged inside", _crop(lambda: _damaged_inside(48, 32)), "cannot be decoded"),
)  # fmt: skip

KINDS: tuple[Kind, ...] = (*_GOOD, *_ROWS, *_FILES)
