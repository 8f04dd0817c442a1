"""Writes rows.parquet beside this file as `datasets` writes it, for tests that have no `datasets`.

    PYTHON tests/common/prepare/datasets_form/make.py

PYTHON: of an environment of its own, with datasets 5.2.0, pyarrow 26.0.1 and Pillow 13.0.0, which
wrote the file that is here. A picture given as a path stays a path: its bytes are null.
"""

import io
import os
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow


def picture(seed: int) -> Pillow.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Pillow.fromarray(pixels).resize((24, 16), Pillow.Resampling.NEAREST)


def turned(seed: int) -> bytes:
    exif, content = Pillow.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture(seed).save(content, "JPEG", exif=exif, quality=90)
    return content.getvalue()


def main() -> None:
    os.chdir(Path(__file__).parent)
    picture(2).save("on_disk.png")
    rows = [
        ("Made in memory?", picture(1), [0, 0, 12, 8], "yes", [picture(4)]),
        ("Turned?", {"bytes": turned(3), "path": None}, [8, 12, 16, 24], None, [picture(5)]),
        ("A file?", "on_disk.png", [1, 2, 3, 4], "no", [picture(6)]),
    ]
    features = {
        "question": Value("string"),
        "image": Image(),
        "bbox": List(Value("float32")),
        "answer": Value("string"),
        "views": List(Image()),
    }
    named = [dict(zip(features, row, strict=True)) for row in rows]
    Dataset.from_list(named, features=Features(features)).to_parquet("rows.parquet")


if __name__ == "__main__":
    main()
