"""A folder in the form that Vision-OPD-6K is published in, made of photographs that packages ship.

    python -m tests.rehearsal.photographs FOLDER [--rows 24]

JPEGs of 0.8 to 1.5 megapixels in several shapes, with a region in a red box (`images`), without
it (`original_images`), and the region alone, twice as large (`teacher_images`). Among them are a
progressive, a grey, a CMYK and one that a viewer turns (EXIF orientation 6). Two more rows cannot
be used: the file of one is missing, that of the other is cut off.
"""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deploy.quickstart.sources import load_photographs

NUM_ROWS = 24
NUM_BAD_ROWS = 2
MEGAPIXELS = (0.8, 1.5)
SHAPES = (4 / 3, 3 / 4, 16 / 9, 1.0, 3 / 2, 2 / 3)  # width over height
LINE_PIXELS = 4  # of the red box
QUALITY = 90
HINT = "Answer from what the red box in the picture encloses, and from nothing else."
QUESTIONS = (
    ("What fills most of the marked region?", ("stone", "cloth", "metal", "water")),
    ("Which colour is most frequent there?", ("brown", "green", "blue", "grey")),
    ("How many separate things can be made out?", ("one", "two", "three", "more than three")),
    ("From where does the light fall on it?", ("left", "right", "above", "behind")),
)
_ORIENTATION, _TURNED = 0x0112, 6  # viewers turn the stored pixels by a quarter, clockwise
Encode = Callable[[Image.Image], bytes]


@dataclass(frozen=True)
class Scene:
    """An upright photograph and the region that is asked about."""

    picture: Image.Image  # RGB
    box: tuple[int, int, int, int]

    def marked(self) -> Image.Image:
        copy = self.picture.copy()
        ImageDraw.Draw(copy).rectangle(self.box, outline=(255, 0, 0), width=LINE_PIXELS)
        return copy

    def crop(self) -> Image.Image:
        part = self.picture.crop(self.box)
        return part.resize((2 * part.width, 2 * part.height), Image.Resampling.BICUBIC)


# ---- kinds of JPEG -------------------------------------------------------------------------------
def plain(picture: Image.Image) -> bytes:
    return _jpeg(picture)


def progressive(picture: Image.Image) -> bytes:
    return _jpeg(picture, progressive=True)


def grey(picture: Image.Image) -> bytes:
    return _jpeg(picture.convert("L"))


def cmyk(picture: Image.Image) -> bytes:
    return _jpeg(picture.convert("CMYK"))


def turned(picture: Image.Image) -> bytes:
    """Stored lying on its side, with the tag that makes viewers put it up."""
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    return _jpeg(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)


KINDS: tuple[Encode, ...] = (plain, progressive, grey, turned, cmyk, plain, plain, plain)


def _jpeg(picture: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY, **options)
    return content.getvalue()


# ---- the folder ----------------------------------------------------------------------------------
def make_published_folder(folder: Path, num_rows: int = NUM_ROWS, seed: int = 0) -> Path:
    """Writes `num_rows` good rows and NUM_BAD_ROWS bad ones; returns the folder.

    The same seed gives the same files, with the same Pillow.
    """
    rng = np.random.default_rng(seed)
    photographs = load_photographs("train")
    rows = []
    for number in range(num_rows + NUM_BAD_ROWS):
        scene = _scene(photographs[number % len(photographs)], number, rng)
        rows.append(_write_row(folder, number, scene, rng))
    _damage(folder, rows[-NUM_BAD_ROWS:])
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _scene(photograph: Image.Image, number: int, rng: np.random.Generator) -> Scene:
    """The middle of a photograph, in a size and shape of its own, with a random region."""
    least, most = MEGAPIXELS
    area = 1e6 * (least + (most - least) * rng.random() ** 5)  # few large ones: they cost CPU time
    shape = SHAPES[number % len(SHAPES)]
    width, height = round((area * shape) ** 0.5), round((area / shape) ** 0.5)
    side = min(photograph.width / shape, photograph.height)
    left, top = (photograph.width - side * shape) / 2, (photograph.height - side) / 2
    window = (left, top, left + side * shape, top + side)
    picture = photograph.resize((width, height), Image.Resampling.BICUBIC, window)
    box_width, box_height = (int(rng.uniform(0.12, 0.25) * side) for side in picture.size)
    x = int(rng.integers(0, width - box_width))
    y = int(rng.integers(0, height - box_height))
    return Scene(picture, (x, y, x + box_width, y + box_height))


def _write_row(folder: Path, number: int, scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    encode = KINDS[number % len(KINDS)]
    stem, options = QUESTIONS[number % len(QUESTIONS)]
    letters = "ABCD"
    choices = "\n".join(f"{a}. {text}" for a, text in zip(letters, options, strict=True))
    views = {
        "images": encode(scene.marked()),
        "teacher_images": plain(scene.crop()),
        "original_images": encode(scene.picture),
    }
    row: dict[str, Any] = {}
    for field, content in views.items():
        name = f"{field}/{number:04d}.jpg"
        (folder / field).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        row[field] = [name]
    answer = letters[int(rng.integers(len(letters)))]
    asked = f"{stem}\n{choices}\nAnswer with the option's letter from the given choices directly."
    return {
        **row,
        "bbox": list(scene.box),
        "problem": f"<image>\n{asked}\n\n{HINT}",
        "answer": answer,
        "extra_info": {"question": asked, "answer": answer},
    }


def _damage(folder: Path, rows: list[dict[str, Any]]) -> None:
    missing, cut = (folder / row["images"][0] for row in rows)
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.photographs")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help=f"good ones ({NUM_ROWS})")
    arguments = parser.parse_args()
    print(make_published_folder(arguments.folder, arguments.rows))
