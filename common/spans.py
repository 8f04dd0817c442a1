"""Marks of what this process did, and when: RUN/spans/ROLE.jsonl, for `python -m deploy.trace`.

    {"name": "broadcast", "begin_s": 1764530724.123456, "end_s": 1764530724.201, "version": 3}

Seconds are since 1970. The clock is read once, when the file is opened, and carried on by the
steady clock: setting it during a run moves no mark. A thread other than the main one is named by
the key `thread`. A process that is started again adds to the file, beginning with a mark `process`.

Noting a mark costs a few microseconds: a thread of its own writes, and nothing here ever raises or
waits. What the disk does not take, or what goes beyond the bound, is dropped, counted and logged
once.
"""

import contextlib
import io
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.full_disk import append_whole

logger = logging.getLogger(__name__)
_TOGETHER = 64  # marks that are written at once
_MOST_WAITING = 20_000  # marks that wait for a disk that hangs
_CLOSING_S = 2.0  # that the end of a process may wait for one
# These say which steps of earlier lives count, and when the journal was: room is kept for them.
_LASTING = ("goes_on", "clock")
_RESERVED_BYTES = 2**14  # of the bound, some 200 of them


class _Noted(NamedTuple):
    name: str
    begin: float  # on time.monotonic's clock
    end: float
    facts: dict[str, Any]


class SpanFile:
    """The marks of one process. Any thread may note them."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: io.FileIO | None = None  # None means that it is still to be opened
        self._left_bytes = 0  # once it is open
        self._is_full = False  # and says so
        self._offset_s = time.time() - time.monotonic()
        self._waiting: deque[_Noted] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._num_dropped = 0
        # A daemon: `close` waits for it, and no longer than that for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()
        self.note("process", time.monotonic(), pid=os.getpid(), host=socket.gethostname())

    def note(self, name: str, begin: float, end: float | None = None, **facts: Any) -> None:
        """Note what lasted from `begin` to `end`, on time.monotonic's clock.

        Args:
            end: None means that it was a moment.
            facts: what JSON holds; step, version and group where there are such.
        """
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            facts["thread"] = thread.name.rpartition("_")[0] or thread.name
        if len(self._waiting) >= _MOST_WAITING:
            self._drop(1, "its disk does not answer")
            return
        self._waiting.append(_Noted(name, begin, begin if end is None else end, facts))
        if len(self._waiting) >= _TOGETHER:
            self._wake.set()

    def flush(self) -> None:
        """Have what is noted written soon."""
        self._wake.set()

    def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        self._thread.join(_CLOSING_S)
        if self._num_dropped:
            logger.warning("%s: %d marks were not written", self._path, self._num_dropped)

    # ---- the thread ------------------------------------------------------------------------------
    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            # `close` sets this before `_wake`, and it is read after that is cleared: it is seen
            # here, or there is another round.
            is_last = self._is_closing
            while self._waiting:
                self._write_waiting()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write_waiting(self) -> None:
        marks = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [(mark.name in _LASTING, line) for mark in marks if (line := self._line(mark))]
        try:
            if self._file is None:
                self._file = self._opened()
            self._write(self._file, lines)
        except Exception as error:  # the boundary of this thread, which goes on
            self._drop(len(lines), f"{type(error).__name__}: {error}")

    def _opened(self) -> io.FileIO:
        self._path.parent.mkdir(exist_ok=True)
        file = io.FileIO(self._path, "a+")
        try:
            if file.seek(0, os.SEEK_END):  # an earlier life may have been killed within a line
                append_whole(file, b"\n")
            self._left_bytes = self._max_bytes - file.tell()
        except BaseException:
            file.close()
            raise
        self._is_full = self._left_bytes <= _RESERVED_BYTES
        return file

    def _write(self, file: io.FileIO, lines: list[tuple[bool, bytes]]) -> None:
        """Add what there is room for. Raises OSError: nothing is added.

        Args:
            lines: each after whether it is of `_LASTING`.
        """
        content, num_beyond = bytearray(), 0
        for is_lasting, line in lines:
            room = self._left_bytes - len(content) - (0 if is_lasting else _RESERVED_BYTES)
            if len(line) <= room:
                content += line
            else:
                num_beyond += 1
        if num_beyond and not self._is_full:
            now = time.monotonic()
            content += self._line(_Noted("full", now, now, {}))
        append_whole(file, bytes(content))
        self._left_bytes -= len(content)
        if num_beyond:
            self._is_full = True
            self._drop(num_beyond, "run.spans_mib is reached")

    def _line(self, mark: _Noted) -> bytes:
        """Empty where JSON does not hold a fact: the mark is dropped."""
        try:
            times = {
                "begin_s": round(mark.begin + self._offset_s, 6),
                "end_s": round(mark.end + self._offset_s, 6),
            }
            return json.dumps({"name": mark.name, **times, **mark.facts}).encode() + b"\n"
        except Exception as error:  # whatever a caller gave
            self._drop(1, f"{mark.name}: {type(error).__name__}: {error}")
            return b""

    def _drop(self, number: int, reason: str) -> None:
        if not self._num_dropped:
            logger.warning("%s: marks for deploy.trace are dropped: %s", self._path, reason)
        self._num_dropped += number


_file: SpanFile | None = None  # of this process; None means that marks are not kept


@contextlib.contextmanager
def recorded(run_folder: Path | None, role: str, max_mib: int) -> Iterator[None]:
    """Keep the marks that this process notes inside, in RUN/spans/ROLE.jsonl.

    Args:
        run_folder: None, or one that is not on this machine, means that they are not kept.
        max_mib: bound on the file; 0 means that marks are not kept.
    """
    global _file
    if run_folder is None or not max_mib or not run_folder.is_dir():
        yield
        return
    _file = file = SpanFile(run_folder / "spans" / f"{role}.jsonl", max_mib * 2**20)
    try:
        yield
    finally:
        _file = None
        file.close()


def note(name: str, begin: float, end: float | None = None, **facts: Any) -> None:
    """Note a mark, as `SpanFile.note` does, if marks are kept."""
    if _file is not None:
        _file.note(name, begin, end, **facts)


@contextlib.contextmanager
def span(name: str, **facts: Any) -> Iterator[None]:
    """Note how long the block lasts, also if it raises."""
    began = time.monotonic()
    try:
        yield
    finally:
        note(name, began, time.monotonic(), **facts)


def flush() -> None:
    """Have what this process has noted written soon."""
    if _file is not None:
        _file.flush()
