"""A file of JSON lines that grows while it is read: each line is read once."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from common.log_files import identity_of

Row = dict[str, Any]
_HEAD_BYTES = 256


class NewRows(NamedTuple):
    """What a look at the file gave."""

    is_anew: bool  # the file was replaced or cut: all that was read before is void
    rows: list[Row]


class FollowedRows:
    """The rows of a file that others append to, or replace by another one. For one thread.

    A line without its end is left for the next look; one that is no JSON object is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def look(self) -> NewRows:
        """The rows since the last look; a file that cannot be read has none."""
        had_rows = self._offset > 0
        try:
            is_anew, lines = self._new_lines()
        except OSError:
            self._forget()
            return NewRows(had_rows, [])
        rows = [row for line in lines if line.strip() and (row := self._parsed(line)) is not None]
        return NewRows(is_anew, rows)

    def _forget(self) -> None:
        self._offset = 0
        self.bad_lines = 0  # that were left out
        self.has_torn_end = False  # the last line had no end when it was looked at
        self._file: tuple[int, int] | None = None
        self._head = b""

    def _new_lines(self) -> tuple[bool, list[bytes]]:
        with self._path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            # An inode may be used again by the file that replaces: its first bytes tell, too.
            is_same = self._file == identity_of(file) and head.startswith(self._head)
            is_anew = self._offset > 0 and not (is_same and file.seek(0, 2) >= self._offset)
            if is_anew:
                self._forget()
            self._file = identity_of(file)
            file.seek(self._offset)
            *whole, torn = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in whole)
        self._head = head[: self._offset]
        self.has_torn_end = bool(torn)
        return is_anew, whole

    def _parsed(self, line: bytes) -> Row | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            return row
        self.bad_lines += 1
        return None
