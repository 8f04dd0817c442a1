"""The log of a process: a file that is begun anew when it is full, and the pipe that fills it.

NAME.log is the newest, NAME.log.1 the one before it, and so on.
"""

import asyncio
import contextlib
import errno
import glob
import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.logs import time_stamp

_CHUNK_BYTES = 64 * 2**10
_SUFFIX = ".log"


class RotatingLog:
    """A log that is written to `path`; a full file becomes PATH.1, and the oldest is removed.

    A line is never split between files unless it is longer than a file. So a file may be larger
    than `max_bytes` by the rest of its last line. Writing never fails: what the disk does not take
    is dropped, and a line says so when there is room again. Any thread may write.

    Args:
        max_bytes: size of a full file.
        files: how many are kept, the current one included.
    """

    def __init__(self, path: Path, max_bytes: int, files: int) -> None:
        assert max_bytes > 0 and files > 0
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._line_bytes = 0  # length so far of the line that the file ends with
        self._lost_bytes = 0
        self._lost_because = ""

    def write(self, chunk: bytes) -> None:
        """Append any part of the output. Blocks for as long as the disk does."""
        with self._lock:
            left = memoryview(chunk)
            try:
                if self._lost_bytes:
                    self._report_loss()
                while left:
                    left = left[self._write_some(left) :]
            except OSError as error:
                self._lost_bytes += len(left)
                self._lost_because = error.strerror or type(error).__name__
                self._release()

    def close(self) -> None:
        """Release the file. A later write opens it again."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _write_some(self, left: memoryview) -> int:
        """Write what belongs into the current file, or begin a new one; bytes that are done."""
        file = self._opened()
        room = self._max_bytes - os.fstat(file.fileno()).st_size
        count = len(left)
        if count > room:
            count = self._share_of_this_file(bytes(left[: self._max_bytes]), room)
        if count == 0:
            self._begin_next()
            return 0
        written = file.write(left[:count]) or 0
        newline = bytes(left[:written]).rfind(b"\n")
        self._line_bytes = written - newline - 1 + (self._line_bytes if newline < 0 else 0)
        return written

    def _share_of_this_file(self, left: bytes, room: int) -> int:
        """How much of `left`, which is more than there is room for, still goes into this file."""
        whole_lines = left.rfind(b"\n", 0, max(room, 0)) + 1
        if whole_lines:
            return whole_lines
        if self._line_bytes:  # its last line is finished here, up to the length of a file
            rest = left.find(b"\n") + 1 or len(left)
            return max(0, min(rest, self._max_bytes - self._line_bytes))
        is_longer_than_a_file = room == self._max_bytes
        return len(left) if is_longer_than_a_file else 0

    def _opened(self) -> io.FileIO:
        """The file behind `path`, also when another process has begun a new one."""
        if self._file is not None:
            if identity(self._path) == identity_of(self._file):
                return self._file
            self._release()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file = io.FileIO(self._path, "a")
        self._line_bytes = 0
        if not _ends_a_line(self._path):  # a process was cut off there
            file.write(b"\n")
        return file

    def _begin_next(self) -> None:
        self._release()
        for path, index in sorted(_older(self._path), key=lambda older: -older[1]):
            if index >= self._files - 1:
                path.unlink()
            else:
                os.replace(path, _numbered(self._path, index + 1))
        if self._files == 1:
            self._path.unlink()
        else:
            os.replace(self._path, _numbered(self._path, 1))

    def _report_loss(self) -> None:
        line = (
            f"{time_stamp(time.time())} WARNING {process_of(self._path)} {__name__}: "
            f"{self._lost_bytes} bytes of the output were dropped here: {self._lost_because}\n"
        ).encode()
        if self._opened().write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lost_bytes = 0


class LogStream:
    """A log as a stream of text, for the `logging` of the process itself."""

    def __init__(self, log: RotatingLog) -> None:
        self._log = log

    def write(self, text: str, /) -> int:
        self._log.write(text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: no text is kept back."""


async def pump(reader: asyncio.StreamReader, log: RotatingLog) -> None:
    """Copy a process's output into its log until the last of its writers has closed it.

    Holds a few chunks at most: a process that writes faster than the disk has to wait.
    """
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            await asyncio.to_thread(log.write, chunk)
    finally:
        log.close()


async def spawn_logged(
    command: Sequence[str], log: RotatingLog, **options: Any
) -> tuple[asyncio.subprocess.Process, "asyncio.Task[None]"]:
    """Start a process without input whose output goes into a log.

    Args:
        options: further ones of `asyncio.create_subprocess_exec`.

    Returns:
        The process, and a task that ends when its pipe is closed: children that it leaves behind
        may hold that open for longer than it lives.

    Raises:
        OSError: there is no such command, or it cannot be run there.
    """
    # A pipe of our own: asyncio's would keep `Process.wait` waiting for such children.
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=asyncio.subprocess.STDOUT,
            **options,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return process, asyncio.create_task(_copy(read_end, log))


async def _copy(read_end: int, log: RotatingLog) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    try:
        await pump(reader, log)
    finally:
        transport.close()


def processes_in(folder: Path) -> list[str]:
    """Names of the processes that have a log in `folder`; none where there is no folder."""
    try:
        names = {process_of(Path(entry.name)) for entry in os.scandir(folder)}
    except FileNotFoundError:
        return []
    return sorted(names - {""})


def process_of(path: Path) -> str:
    """The process that a file is the log of; empty means that it is no log."""
    name = path.name
    stem, dot, number = name.rpartition(".")
    if number.isdigit() and dot:
        name = stem
    return name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else ""


def segments(path: Path) -> list[tuple[Path, tuple[int, int]]]:
    """The files of one log with their device and inode, newest first.

    Files that are renamed meanwhile are found all the same: they move towards the older ones, as
    this search does.
    """
    oldest = max((index for _, index in _older(path)), default=0)
    found: dict[tuple[int, int], Path] = {}
    for index in range(oldest + 2):
        candidate = _numbered(path, index)
        which = identity(candidate)
        if which is not None:
            found.pop(which, None)
            found[which] = candidate
    return [(where, which) for which, where in found.items()]


def _older(path: Path) -> Iterator[tuple[Path, int]]:
    """The files before the current one, and their numbers."""
    for candidate in path.parent.glob(f"{glob.escape(path.name)}.*"):
        number = candidate.name.rpartition(".")[2]
        if number.isdigit():
            yield candidate, int(number)


def _numbered(path: Path, index: int) -> Path:
    return path.with_name(f"{path.name}.{index}") if index else path


class LogTail:
    """What is written to a log from now on: what it holds by now is of another process, or life.

    Args:
        path: of the current file; it may be begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = identity(path)
        self._start = path.stat().st_size if path.exists() else 0

    def lines(self, most_bytes: int | None = None) -> list[str]:
        """All lines, or those in the last bytes. Raises OSError."""
        with self.path.open("rb") as file:
            start = self._start if identity_of(file) == self._first else 0
            if most_bytes is not None:
                start = max(start, file.seek(0, os.SEEK_END) - most_bytes)
            file.seek(start)
            return file.read().decode("utf-8", errors="replace").strip("\n").splitlines()


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file behind a name; None means that there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def identity_of(file: io.FileIO | io.BufferedReader) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")
