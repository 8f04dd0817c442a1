"""Makes a dataset of single odd rows: files in a folder, and one Parquet file that names them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.picture_files import picture_file

PROBLEM = "<image>which digit is on the red tag ?"
WIDTH, HEIGHT = 96, 64
Row = dict[str, Any]
# As pandas leaves them: whole numbers beside an empty cell are floats.
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("problem", pa.string()),
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("width", pa.float64()),
        ("height", pa.float64()),
        ("box", pa.list_(pa.float64())),
        ("crop", pa.string()),
        ("crop_sha256", pa.string()),
        ("crop_width", pa.float64()),
        ("crop_height", pa.float64()),
        ("answer", pa.string()),
    ]
)


class Folder:
    """Where one row's files go.

    Args:
        root: of the dataset.
        name: of the row; its files are called after it.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self._stem = name.replace(" ", "-").replace("/", "-")

    def path(self, suffix: str = ".png") -> str:
        """Relative to the dataset, and free."""
        return f"pictures/{self._stem}{suffix}"

    def write(self, content: bytes, suffix: str = ".png") -> str:
        relative = self.path(suffix)
        (self.root / relative).parent.mkdir(exist_ok=True)
        (self.root / relative).write_bytes(content)
        return relative

    def row(self, content: bytes | None = None, **changes: Any) -> Row:
        """A row that is in order but for what is changed; `content` is its picture file."""
        content = picture_file("png", WIDTH, HEIGHT) if content is None else content
        row: Row = {
            "sample_id": self.name,
            "problem": PROBLEM,
            "image_sha256": hashlib.sha256(content).hexdigest(),
            "width": WIDTH,
            "height": HEIGHT,
            "box": [8, 8, 56, 40],
            "answer": "the digit is 7",
        }
        row["image"] = changes.pop("image", None) or self.write(content)
        return row | changes

    def crop_row(self, content: bytes, **changes: Any) -> Row:
        """A row whose crop is the file `content`, 48 x 32 by what it says."""
        crop = {
            "crop": self.write(content, "-crop.png"),
            "crop_sha256": hashlib.sha256(content).hexdigest(),
            "crop_width": 48,
            "crop_height": 32,
        }
        return self.row(**crop | changes)


def write_table(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Texts given as bytes are written as they are, UTF-8 or not."""
    columns = []
    listed = list(rows)
    for field in _SCHEMA:
        cells = [row.get(field.name) for row in listed]
        if field.type == pa.string():
            raw = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
            packed = pa.array(raw, pa.binary())
            buffers = packed.buffers()
            columns.append(
                pa.StringArray.from_buffers(len(raw), buffers[1], buffers[2], buffers[0])
            )
        else:
            columns.append(pa.array(cells, field.type))
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), path)
    return path
