"""One row of a dataset by its name, without reading the others.

Only the column of names is read whole, once for each state of the file; of the row itself no more
than its row group. `common.dataset` says what a row is.
"""

import functools
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.bad_rows import BadField
from common.dataset import sample_of
from common.dataset_columns import KINDS, sample_id_of
from common.errors import DataError
from common.parquet_rows import READ_ERRORS, Row, cells_of
from common.types import Sample

_FILES = 4  # whose names are kept
_BATCH_ROWS = 4096


def find_row(path: Path, sample_id: str, further: tuple[str, ...] = ()) -> Row | None:
    """The cells of the first row with this name, by column; None if there is none.

    Args:
        further: columns beside those of a sample; a cell is None where the file has no such column.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        status = path.stat()
        names = _names(path, status.st_mtime_ns, status.st_size)
        number = pc.index(names, sample_id).as_py()
        if number < 0:
            return None
        row = _row(path, number, (*KINDS, *further))
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = "bring the file back as it was"
        raise DataError(f"dataset {path} cannot be read: {reason}. Fix: {fix}") from error
    return row


def find_sample(path: Path, sample_id: str) -> Sample | None:
    """The sample of this name; None if there is none.

    Raises:
        DataError: the file cannot be read, or the row is of no use.
    """
    row = find_row(path, sample_id)
    if row is None:
        return None
    try:
        return sample_of(sample_id_of(row), row, (), path.parent)
    except BadField as error:
        raise DataError(f"dataset {path}: sample {sample_id}: {error}") from error


@functools.lru_cache(maxsize=_FILES)
def _names(path: Path, mtime_ns: int, size: int) -> pa.ChunkedArray:
    """All names, as text. The file's time and size tell a file that was replaced."""
    with pq.ParquetFile(path) as file:
        column = file.read(["sample_id"]).column(0)
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_floating(column.type):  # 17.0 is "17"
        column = pc.cast(column, pa.int64(), safe=False)
    return pc.cast(column, pa.large_string())


def _row(path: Path, number: int, columns: tuple[str, ...]) -> Row:
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        group = 0
        while number >= (rows := file.metadata.row_group(group).num_rows):
            number, group = number - rows, group + 1
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=there):
            if number < batch.num_rows:
                cells = {name: cells_of(batch.column(name).slice(number, 1)) for name in there}
                return {name: cells[name][0] if name in cells else None for name in columns}
            number -= batch.num_rows
    raise LookupError("it has changed")
