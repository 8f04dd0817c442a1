"""Rows of somebody's, written as they have them, and what was made of them."""

import io
import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.bad_rows import BadField
from common.prepare.__main__ import main
from common.prepare.source import SourceRow
from common.prepare.tables import FileRow
from tests.picture_files import scene

SIZE = (100, 80)


def jpeg(width: int, height: int, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    scene(width, height).save(content, "JPEG", exif=exif, **options)
    return content.getvalue()


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Text and bytes stand as they are; others as JSON."""
    lines = (row if isinstance(row, bytes) else _line(row) for row in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def _line(row: Any) -> bytes:
    return (row if isinstance(row, str) else json.dumps(row)).encode()


def custom(source: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    """The rows of the dataset that the command makes."""
    main(["custom", "--input", str(source), "--out", str(out), *words])
    return pq.read_table(out / "train.parquet").to_pylist()


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and last line of a command that does not succeed."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0), capsys.readouterr().err.splitlines()[-1]


class KillingRows:
    """A set of which one row kills the process that works on it, as the kernel would."""

    num_rows, extra = 200, {}

    def entries(self) -> Iterator[FileRow]:
        yield from (FileRow(f"row {n}", n, {}) for n in range(self.num_rows))

    def source_row(self, entry: FileRow) -> SourceRow:
        if entry.number == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        raise BadField("image", None, "nothing there", "none")

    def notes(self) -> list[str]:
        return []
