"""Rows of a set's files: Parquet a few at a time, CSV and JSON whole; what is wrong has a place.

Pictures are large (a row of HR-Bench 8K holds some MB), so no more than a few rows are in memory.
"""

import base64
import binascii
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from common.bad_rows import shortened
from common.dataset_paths import leaves
from common.errors import DataError
from common.parquet_rows import READ_ERRORS, open_parquet

_BATCH_ROWS = 8


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    file: Path
    number: int  # in the file, from 0
    cells: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A text as it stands there; whole numbers count as text. Raises DataError."""
        value = self.cells.get(field)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.error(field, "is no text", "write text there")

    def text_or_none(self, field: str) -> str | None:
        """The text, or None where there is no such column, or nothing in it."""
        return None if self.cells.get(field) is None else self.text(field)

    def texts(self, field: str) -> list[str]:
        """A list of texts. Raises DataError."""
        value = self.cells.get(field)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        raise self.error(field, "is no list of texts", "write a list there")

    def present(self, *fields: str) -> dict[str, str]:
        """The fields that hold something, as texts."""
        return {name: self.text(name) for name in fields if self.cells.get(name) is not None}

    def picture(self, field: str) -> bytes:
        """A file: bytes, an Image of `datasets`, base64, or a path beside it. Raises DataError."""
        value = self.cells.get(field)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return self._file(field, value) if _is_path(value) else self._decoded(field, value)
        if isinstance(value, bytes) and value:
            return value
        raise self.error(field, "is no picture", "write its bytes, or a path, there")

    def picture_or_none(self, field: str) -> bytes | None:
        value = self.cells.get(field)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        return self.picture(field) if value else None

    def error(self, field: str, problem: str, fix: str) -> DataError:
        """What is wrong with a cell, with its place and the fix."""
        shown = shortened(self.cells.get(field))
        return DataError(f"{self.file} row {self.number}: {field} = {shown} {problem}. Fix: {fix}")

    def _decoded(self, field: str, value: str) -> bytes:
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise self.error(field, "is no base64", "write the file's bytes there") from None

    def _file(self, field: str, value: str) -> bytes:
        if leaves(value, self.file.parent):
            fix = "name a file inside it, by a path without '..'"
            raise self.error(field, f"leads out of {self.file.parent}", fix)
        try:
            return (self.file.parent / value).read_bytes()
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise self.error(field, reason, "restore the file") from None


class Rows(NamedTuple):
    """The rows of all files of a set."""

    total: int
    each: Iterator[Row]


def parquet_rows(
    paths: Sequence[Path], required: Sequence[str], optional: Sequence[str] | None = ()
) -> Rows:
    """Read the named columns; None for `optional` means all. Raises DataError, also row by row."""
    try:
        files = {path: open_parquet(path) for path in paths}
    except READ_ERRORS as error:
        raise _unreadable(", ".join(map(str, paths)), error) from error
    for path, file in files.items():
        missing = [name for name in required if name not in file.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path} lacks the columns {', '.join(missing)}; it has "
                f"{', '.join(file.schema_arrow.names[:20])}. Fix: take the published files"
            )
    count = sum(file.metadata.num_rows for file in files.values())
    names = None if optional is None else {*required, *optional}
    return Rows(count, _parquet_rows(files, names))


def csv_rows(path: Path) -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[Mapping[str, Any]] = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(str(path), error) from error
    return _numbered(path, rows)


def json_rows(path: Path) -> Rows:
    """A JSON list of objects, or JSON Lines (a name that ends in .jsonl). Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = _json_lines(text) if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: it holds no list. Fix: write a list of JSON objects")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{path} row {number}: no object. Fix: write a JSON object for each row"
            )
    return _numbered(path, rows)


def _parquet_rows(files: Mapping[Path, pq.ParquetFile], names: set[str] | None) -> Iterator[Row]:
    for path, file in files.items():
        columns = [n for n in file.schema_arrow.names if names is None or n in names]
        number = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                for cells in batch.to_pylist():
                    yield Row(path, number, cells)
                    number += 1
        except READ_ERRORS as error:
            if isinstance(error, DataError):
                raise
            raise _unreadable(f"{path} from row {number}", error) from error
        finally:
            file.close()


def _numbered(path: Path, rows: Sequence[Mapping[str, Any]]) -> Rows:
    return Rows(len(rows), (Row(path, number, cells) for number, cells in enumerate(rows)))


def _json_lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # texts may hold other ends of line
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


def _is_path(value: str) -> bool:
    """Whether it is a path: base64 of a picture is long and has no full stop."""
    return len(value) <= 4096 and "." in value


def _unreadable(what: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(f"{what} cannot be read: {reason}. Fix: download it anew")
