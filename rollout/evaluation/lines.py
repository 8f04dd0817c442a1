"""A file of JSON objects, one a line, that only grows: what is in it outlives whatever comes.

A line that was being written when the machine went down is cut off when the file is opened again.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from common.errors import ConfigError, DataError
from common.locks import Lock, try_lock

logger = logging.getLogger(__name__)
_SYNC_S = 1.0  # seconds of work that a power cut may cost


class GrowingLines:
    """A file that one process writes.

    Raises:
        ConfigError: another process writes to it.
        DataError: the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _failed(path, error) from error
        try:
            self._own()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the lines have been written all the same
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line; DataError if the disk does not take it, and then nothing of it stays."""
        content = json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, content)
            if written < len(content):
                raise OSError(f"{written} of {len(content)} bytes written")
            if time.monotonic() - self._synced > _SYNC_S:
                os.fsync(self._descriptor)
                self._synced = time.monotonic()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise _failed(self.path, error) from error

    def _own(self) -> None:
        try:
            if try_lock(self._descriptor) is Lock.HELD:
                raise ConfigError(
                    f"{self.path}: another process writes to it. Fix: wait for it, or name "
                    "another --out"
                )
            os.ftruncate(self._descriptor, _whole_bytes(self.path))
        except OSError as error:
            raise _failed(self.path, error) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of such a file, in order; none where it is missing.

    A line that is no object, which a disk may have damaged, is told and left out.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # the line is, or was, being written
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                if isinstance(found, dict):
                    yield found
                else:
                    logger.warning("%s line %d: no JSON object; left out", path, number)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error


def _whole_bytes(path: Path) -> int:
    """Where the last whole line ends."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                end += len(line)
    return end


def _failed(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: {error.strerror or error}. Fix: see to the disk; the same command goes on"
    )
