"""Locks on files, where the file system knows them: some network file systems do not."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock(Enum):
    """What became of an attempt to lock."""

    TAKEN = "taken"
    HELD = "held"  # by another process
    UNKNOWN = "unknown"  # the file system knows no locks: none can be held


def try_lock(descriptor: int, is_shared: bool = False) -> Lock:
    """Lock an open file or folder for as long as it is open here, without waiting.

    Args:
        is_shared: share the lock with others that do so; on some network file systems a file that
            is only read takes no other lock.

    Raises:
        OSError: the file system fails in another way.
    """
    return _lock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[Lock]:
    """Hold a lock file, once other processes have released it; it is made where it is missing.

    Raises:
        OSError: it cannot be made.
    """
    with path.open("a") as file:
        yield _lock(file.fileno(), fcntl.LOCK_EX)


def _lock(descriptor: int, how: int) -> Lock:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return Lock.HELD
    except OSError as error:
        if error.errno in _UNKNOWN:
            return Lock.UNKNOWN
        raise
    return Lock.TAKEN
