"""Reads what one process wrote, line by line and with the time of each, from file to file.

A line without a time of its own (of a traceback, of a banner) has that of the line before it.
"""

import functools
import io
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from pathlib import Path
from typing import NamedTuple

from common.log_files import identity, identity_of, process_of, segments

_BLOCK_BYTES = 64 * 2**10
_MAX_LINE_BYTES = 64 * 2**10  # longer ones come in pieces
_TRIES = 5  # to open a file that is renamed meanwhile
_CONTROL = re.compile(rb"\x1b\[[0-9;]*m|[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]")
_STAMP = re.compile(  # ours and logging's: date, time, zone; SGLang's in brackets, maybe coloured
    rb"(?:\x1b\[[0-9;]*m)*\[?(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?"
    rb"(Z|[+-]\d\d:?\d\d)?(?![\d:])"
)


class Line(NamedTuple):
    """One line of output."""

    time: float  # seconds since 1970
    name: str  # of its process
    text: bytes  # without its end


class LogSource:
    """The output of one process, from the oldest file that is kept to the end, and on as it grows.

    Args:
        path: of the current file; the process may begin new ones while this reads.
    """

    def __init__(self, path: Path) -> None:
        self.name = process_of(path)
        self._path = path
        self._file: io.FileIO | None = None
        self._time: float | None = None  # of the last line
        self._lines: deque[bytes] = deque()  # of the last block
        self._rest = b""  # the beginning of a line
        self._head: Line | None = None

    def peek(self) -> Line | None:
        """The next line. None means that there is none yet."""
        if self._head is None:
            while not self._lines:
                block = self._next_block()
                if not block:
                    return None
                self._split(block)
            self._head = self._dated(self._lines.popleft())
        return self._head

    def take(self) -> Line:
        """The line that `peek` has shown."""
        assert self._head is not None
        head, self._head = self._head, None
        return head

    def last_words(self) -> Line | None:
        """A line that was begun and has no end. After it nothing is read."""
        rest, self._rest = self._rest, b""
        return self._dated(rest) if rest else None

    def start_at(self, lines: int) -> None:
        """Leave out all but the last `lines` lines. Call it before anything is read."""
        for path, _ in segments(self._path):
            if not self._open(path):
                continue
            assert self._file is not None
            start, found = _last_lines(self._file, lines)
            self._time = _time_before(self._file, start)
            self._file.seek(start)
            lines -= found
            if lines <= 0:
                return

    def skip_before(self, time: float) -> None:
        """Leave out files that ended before `time`. Call it before anything is read."""
        for path, _ in reversed(segments(self._path)):
            if self._open(path):
                assert self._file is not None
                if os.fstat(self._file.fileno()).st_mtime >= time:
                    return
                self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ---- blocks ----------------------------------------------------------------------------------
    def _next_block(self) -> bytes:
        """The next bytes; empty while there is nothing new."""
        if self._file is None and not self._open_oldest():
            return b""
        while True:
            assert self._file is not None
            block = self._file.read(_BLOCK_BYTES)
            if block:
                return block
            if os.fstat(self._file.fileno()).st_size < self._file.tell():  # it was emptied
                self._file.seek(0)
                continue
            if identity(self._path) in (None, identity_of(self._file)):
                return b""
            # A new file was begun, so this one grows no more. Is all of it read?
            block = self._file.read(_BLOCK_BYTES)
            if block or not self._open_next():
                return block
            if self._rest:
                self._lines.append(self._rest)
                self._rest = b""

    def _open_oldest(self) -> bool:
        return any(self._open(path) for path, _ in reversed(segments(self._path)))

    def _open_next(self) -> bool:
        """Open the file after the one that is read; the oldest, when that one was removed."""
        for _ in range(_TRIES):
            assert self._file is not None
            found = segments(self._path)
            identities = [its for _, its in found]
            own = identity_of(self._file)
            index = identities.index(own) if own in identities else len(found)
            if index == 0:
                return False
            path, expected = found[index - 1]
            before = self._file
            if self._open(path, keep=True):
                if identity_of(self._file) == expected:
                    before.close()
                    return True
                self._file.close()  # the files were renamed meanwhile: look again
                self._file = before
        return False

    def _open(self, path: Path, keep: bool = False) -> bool:
        """Open a file; return whether it was there."""
        try:
            file = io.FileIO(path)
        except FileNotFoundError:
            return False
        if not keep:
            self.close()
        self._file = file
        return True

    # ---- lines -----------------------------------------------------------------------------------
    def _split(self, block: bytes) -> None:
        *whole, self._rest = (self._rest + block).split(b"\n")
        self._lines.extend(whole)
        if len(self._rest) > _MAX_LINE_BYTES:
            self._lines.append(self._rest)
            self._rest = b""

    def _dated(self, text: bytes) -> Line:
        time = time_of(text)
        if time is not None:
            self._time = time
        elif self._time is None:
            self._time = self._first_time()
        return Line(self._time, self.name, text)

    def _first_time(self) -> float:
        """The time for lines before the first that has one: that one's, or the file's."""
        assert self._file is not None
        number = self._file.fileno()
        for text in os.pread(number, _BLOCK_BYTES, 0).split(b"\n"):
            if (time := time_of(text)) is not None:
                return time
        return os.fstat(number).st_mtime


def merged(sources: Iterable[LogSource], limit: int | None = None) -> Iterator[Line]:
    """The lines that are there, by their times; those of one process in its own order.

    Args:
        limit: lines at most: sources that others write to may never run dry.
    """
    by_index = list(sources)
    heap = [(head.time, i) for i, source in enumerate(by_index) if (head := source.peek())]
    heapify(heap)
    num_left = limit
    while heap and num_left != 0:
        index = heap[0][1]
        yield by_index[index].take()
        head = by_index[index].peek()
        if head is not None:
            heapreplace(heap, (head.time, index))
        else:
            heappop(heap)
        if num_left is not None:
            num_left -= 1


def harmless(text: bytes) -> bytes:
    """A line without what a terminal obeys: engines' colours left out, other controls as a mark."""
    return _CONTROL.sub(lambda found: b"" if len(found[0]) > 2 else b"?", text)


def time_of(text: bytes) -> float | None:
    """The time that a line begins with (seconds since 1970). None means no time.

    One without a zone is taken for this machine's.
    """
    match = _STAMP.match(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    whole = _seconds(day, clock, zone or b"")
    if whole is None or fraction is None:
        return whole
    return whole + int(fraction) / 10.0 ** len(fraction)


@functools.lru_cache(maxsize=4096)
def _seconds(day: bytes, clock: bytes, zone: bytes) -> float | None:
    try:
        return datetime.fromisoformat(f"{day.decode()}T{clock.decode()}{zone.decode()}").timestamp()
    except (ValueError, OverflowError):
        return None


def _last_lines(file: io.FileIO, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines begin, and how many these are: fewer in a short file."""
    size = file.seek(0, os.SEEK_END)
    if size == 0 or lines <= 0:
        return size, 0
    end, found = size - 1, 1  # the last byte ends the last line, or is within it
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        block = os.pread(file.fileno(), end - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if found == lines:
                return start + at + 1, found
            found += 1
        end = start
    return 0, found


def _time_before(file: io.FileIO, position: int) -> float | None:
    """The time of the last line before `position` that has one."""
    start = max(0, position - _BLOCK_BYTES)
    block = os.pread(file.fileno(), position - start, start)
    times = (time_of(text) for text in reversed(block.split(b"\n")))
    return next((time for time in times if time is not None), None)
