"""A disk that is full: what was to be written is not lost, its writer waits until there is room."""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from common.errors import VisionOpdError

logger = logging.getLogger(__name__)
WAITS_FOR_ROOM = "waits_for_room"  # gauge of a process that does
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOOK_S = 1.0  # between the first two tries: a disk does not tell when it has room
_LONGEST_LOOK_S = 10.0  # each try may write gigabytes before it fails
_waiting: set[Path] = set()  # in this process; a set's own methods are atomic
Result = TypeVar("Result")


class DiskFull(VisionOpdError):
    """No room on a disk, and no time to wait for it."""


def waits_for_room() -> bool:
    """Whether something in this process waits for a disk to have room."""
    return bool(_waiting)


def is_full(error: BaseException) -> bool:
    """Whether a disk, or somebody's share of it, has no room."""
    return isinstance(error, OSError) and error.errno in _FULL


def when_there_is_room(
    act: Callable[[], Result],
    path: Path,
    is_over: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """What `act` gives, as soon as it does not fail for want of room.

    Args:
        act: writes; after a failure it can be called again.
        path: what it writes, for the log.
        is_over: asked between two tries: whether to wait no longer.

    Raises:
        DiskFull: it was not to wait any longer.
        OSError: the disk refuses for another reason.
    """
    began, pause_s = time.monotonic(), _LOOK_S
    is_waiting = False
    try:
        while True:
            try:
                result = act()
                break
            except OSError as error:
                if not is_full(error):
                    raise
                if is_over():
                    raise _given_up(path, error) from error
                if not is_waiting:
                    is_waiting = True
                    _waiting.add(path)
                    _tell(path, error)
            sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
    finally:
        if is_waiting:
            _waiting.discard(path)
    if is_waiting:
        logger.info("there is room for %s after %.0f s", path, time.monotonic() - began)
    return result


def _tell(path: Path, error: OSError) -> None:
    logger.warning(
        "%s cannot be written: %s. Fix: free space on its disk. This waits for it, and nothing is "
        "lost", path, error.strerror,
    )  # fmt: skip


def _given_up(path: Path, error: OSError) -> DiskFull:
    return DiskFull(f"{path} is not written: {error.strerror}")


def append_whole(file: IO[bytes], content: bytes) -> None:
    """Add all of it to an unbuffered file, or nothing. Raises OSError."""
    size = file.seek(0, 2)
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(size)
        raise
