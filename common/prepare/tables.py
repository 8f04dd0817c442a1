"""Foreign rows from JSONL or Parquet, one at a time, however many there are.

A first look (`survey`) tells the columns and their types, which a Parquet file needs before its
first row; only JSONL is read for it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.bad_rows import BadField
from common.errors import ConfigError
from common.parquet_rows import READ_ERRORS, cells_of, open_parquet
from common.prepare.source import Cells

_ROWS_AT_ONCE = 32  # a row of Parquet may hold a picture
_MAX_LINE_BYTES = 2**26
_READS = {".jsonl": "lines of JSON", ".parquet": "Parquet"}
_LARGEST = 2**63
_LINE_FIX = "write one JSON object a line"


class FileRow(NamedTuple):
    """A row of a file."""

    place: str  # "FILE line 7": for people
    number: int  # in the whole set, from 1
    cells: Cells | str  # a text says why they cannot be read


@dataclass(frozen=True)
class TableSurvey:
    """What a set of files holds."""

    num_rows: int
    types: dict[str, pa.DataType]  # columns in their order


def table_files(path: Path) -> list[Path]:
    """A file, or all such files of a folder. Raises ConfigError: there is none."""
    found = sorted(p for p in path.rglob("*") if p.suffix in _READS) if path.is_dir() else [path]
    if not found or not all(p.is_file() and p.suffix in _READS for p in found):
        raise ConfigError(f"--input {path}: no such file of rows. Fix: name a .jsonl or .parquet")
    return found


def survey(files: Sequence[Path]) -> TableSurvey:
    """The columns of all files; ConfigError if one cannot be read, or two disagree."""
    if len({path.suffix for path in files}) > 1:
        raise ConfigError(f"--input {files[0].parent}: JSONL and Parquet. Fix: name one file")
    if files[0].suffix == ".parquet":
        return _survey_parquet(files)
    kinds: dict[str, set[type]] = {}
    rows = 0
    for entry in entries(files):
        rows += 1
        if not isinstance(entry.cells, str):
            for name, value in entry.cells.items():
                kinds.setdefault(name, set()).add(_kind_of(value))
    return TableSurvey(rows, {name: _type_of(found) for name, found in kinds.items()})


def entries(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[FileRow]:
    """Read all rows, in their order.

    Args:
        columns: those of a Parquet file to read; None means all.

    Raises:
        ConfigError: a file cannot be read.
    """
    number = 0
    for path in files:
        is_parquet = path.suffix == ".parquet"
        try:
            for place, cells in _parquet(path, columns) if is_parquet else _jsonl(path):
                number += 1
                yield FileRow(f"{path} {place}", number, cells)
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            fix = f"write it anew, as {_READS[path.suffix]}"
            raise ConfigError(f"--input {path} cannot be read: {reason}. Fix: {fix}") from error


def as_column(value: Any, type_: pa.DataType) -> Any:
    """A cell of JSONL in the type of its column; what that cannot hold is JSON in a text column."""
    if value is not None and pa.types.is_string(type_) and not isinstance(value, str):
        return json.dumps(value)
    return float(value) if pa.types.is_floating(type_) and type(value) is int else value


# ---- JSONL ---------------------------------------------------------------------------------------
def _jsonl(path: Path) -> Iterator[tuple[str, Cells | str]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            is_whole = line.endswith(b"\n") or len(line) < _MAX_LINE_BYTES
            while not line.endswith(b"\n") and (rest := file.readline(_MAX_LINE_BYTES)):
                line = line[:100] + rest[-1:]  # look for the end of a line that is too long
            if line.strip():
                yield f"line {number}", _object(line, is_whole)


def _object(line: bytes, is_whole: bool) -> Cells | str:
    try:
        if not is_whole:
            raise ValueError(f"longer than {_MAX_LINE_BYTES >> 20} MiB")
        cells = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return str(BadField("line", line, f"not JSON ({error})", _LINE_FIX))
    if not isinstance(cells, dict):
        return str(BadField("line", cells, "not a JSON object", _LINE_FIX))
    return cells


def _kind_of(value: Any) -> type:
    return str if type(value) is int and not -_LARGEST <= value < _LARGEST else type(value)


def _type_of(kinds: set[type]) -> pa.DataType:
    kinds = kinds - {type(None)}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


# ---- Parquet -------------------------------------------------------------------------------------
def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[str, Cells]]:
    number = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
            names = batch.schema.names
            for row in zip(*map(cells_of, batch.columns), strict=True):
                yield f"row {number}", dict(zip(names, row, strict=True))
                number += 1


def _survey_parquet(files: Sequence[Path]) -> TableSurvey:
    rows, schemas = 0, []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                rows += file.metadata.num_rows
                schemas.append(file.schema_arrow.remove_metadata())
        except READ_ERRORS as error:
            raise ConfigError(
                f"--input {path} cannot be read: {error}. Fix: write it anew, as Parquet"
            ) from error
    names = schemas[0].names
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--input {files[0]} has {sorted(twice)} twice. Fix: rename one of them")
    try:
        unified = pa.unify_schemas(schemas)
    except pa.ArrowException as error:
        raise ConfigError(
            f"--input: files disagree about a column: {error}. Fix: name one file at a time"
        ) from error
    return TableSurvey(rows, {field.name: field.type for field in unified})
