"""The rows of a Parquet file: the columns in use, a batch at a time, types checked once a column.

A column has one type for all its rows, so a wrong type is an error of the file. What is wrong with
a cell (nothing in it, text that is no UTF-8) is left to the reader of the row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataError

Row = dict[str, Any]
_BATCH_ROWS = 4096
_BUFFER_BYTES = 2**20
# Of Arrow, for files that are damaged or hold what it cannot read.
READ_ERRORS = (
    OSError, ValueError, NotImplementedError, LookupError, TypeError, MemoryError,
    pa.ArrowException,
)  # fmt: skip


@dataclass(frozen=True)
class Unreadable:
    """A cell that cannot be turned into a Python value."""

    reason: str

    def __repr__(self) -> str:
        return f"unreadable ({self.reason})"


@dataclass(frozen=True)
class ColumnKind:
    """Which of Arrow's types a column may have."""

    words: str  # "text"
    fix: str
    admits: Callable[[pa.DataType], bool]


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file to read a few rows at a time: of a column only a buffer is held.

    Pictures may be in it. Either setting alone has no effect (pyarrow 26.0.1,
    findings/pyarrow_buffer_size_alone_bounds_nothing.sh).

    Raises:
        READ_ERRORS: it is no Parquet file, or cannot be read.
    """
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def read_rows(
    path: Path, kinds: Mapping[str, ColumnKind], required: tuple[str, ...] = ()
) -> Iterator[Row]:
    """Each row's cells by column, in the order of the file; columns that are not there are None.

    Args:
        kinds: the columns to read, and which types each may have.

    Raises:
        DataError: the file cannot be read, or a column is missing, there twice or of a wrong type.
    """
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"dataset {path}: there is no such file. Fix: name a Parquet file")
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow, kinds, required)
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                cells = {name: cells_of(batch.column(name)) for name in columns}
                for number in range(batch.num_rows):
                    yield {name: cells[name][number] if name in cells else None for name in kinds}
    except DataError:
        raise
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"dataset {path} cannot be read: {reason}. Fix: write it anew, as Parquet"
        ) from error


def _columns(
    path: Path, schema: pa.Schema, kinds: Mapping[str, ColumnKind], required: tuple[str, ...]
) -> list[str]:
    """The columns of `kinds` that the file has."""
    missing = [name for name in required if name not in schema.names]
    if missing:
        raise DataError(
            f"dataset {path} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(schema.names[:20]) or 'none'}. Fix: add them (deploy/README.md, "
            "Data)"
        )
    found = [name for name in kinds if name in schema.names]
    for name in found:
        if schema.names.count(name) > 1:
            raise DataError(
                f"dataset {path} has the column {name} twice. Fix: rename or drop one of them"
            )
        type_, kind = schema.field(name).type, kinds[name]
        if not (pa.types.is_null(type_) or kind.admits(_value_type(type_))):
            raise DataError(
                f"dataset {path}: column {name} is of type {str(type_)[:100]}, not {kind.words}. "
                f"Fix: {kind.fix}"
            )
    return found


def cells_of(column: pa.Array) -> list[Any]:
    """A column's cells as Python values, `Unreadable` where one cannot be."""
    try:
        cells: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # one is no UTF-8: the others are as good as ever
        return [_cell(cell) for cell in column]
    return cells


def _cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:
        return Unreadable(" ".join(str(error).split())[:100])


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_
