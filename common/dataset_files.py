"""Write what `common.dataset` reads: a Parquet file of rows, a row group at a time.

Its pictures lie beside it, in PICTURES, each under its digest. Which form rows come in is not known
here (see `common.prepare`).
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import DataError

PICTURES = "pictures"  # folder beside the Parquet file
_ROWS_A_GROUP = 2048
Row = dict[str, Any]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """A Parquet file of rows with the columns of `common.dataset`; whole or not there."""
    with RowWriter(path) as writer:
        writer.add(rows)


class RowWriter:
    """A Parquet file that grows row by row. It is there, whole, when the `with` block ends well.

    Args:
        extra: other columns and their types of pyarrow, which stand after ours.
    """

    def __init__(self, path: Path, extra: Mapping[str, Any] | None = None) -> None:
        import pyarrow.parquet as pq

        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._schema = schema(extra)
        self._waiting: list[Row] = []
        self._file = pq.ParquetWriter(self._part, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._write()
            self._file.close()
            if kind is None:
                os.replace(self._part, self._path)
        finally:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows; OSError or DataError if that fails."""
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == _ROWS_A_GROUP:
                self._write()

    def _write(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        try:
            table = pa.Table.from_pylist(self._waiting, schema=self._schema)
        except pa.ArrowException as error:  # a column beside ours; ours are known to fit
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{self._path}: a column cannot be written: {reason}. Fix: take it out of the rows"
            ) from error
        self._file.write_table(table)
        self._waiting = []


def schema(extra: Mapping[str, Any] | None = None) -> Any:
    """pyarrow's schema of a dataset."""
    import pyarrow as pa

    text, pixels = pa.string(), pa.int32()
    ours = {
        "sample_id": text,
        "image": text,
        "image_sha256": text,
        "width": pixels,
        "height": pixels,
        "box": pa.list_(pixels),
        "crop": text,
        "crop_sha256": text,
        "crop_width": pixels,
        "crop_height": pixels,
        "problem": text,
        "answer": text,
    }
    return pa.schema([*ours.items(), *(extra or {}).items()])
