"""A short folder for what Ray keeps while it runs, which its owner alone can enter.

Ray opens the folder that it is given to everybody (mode 777, no sticky bit). So it is given one
inside of ours, and ours stays closed. Ours also holds the token that Ray asks everybody for.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import VisionOpdError
from common.lifecycle import is_alive
from common.locks import Lock, try_lock

PREFIX = "vopd-ray-"
TOKEN = "token"
_INNER = "r"  # Ray's own
_MAX_SOCKET_PATH = 107  # bytes, of a Unix socket (Linux)
_RAYS_PART = len(f"/{_INNER}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_OWN_PART = len(f"/{PREFIX}4194304-abcdefgh")


def places() -> list[Path]:
    """Folders to make ours in, best first: TMPDIR is often long, or on a slow disk."""
    named = os.environ.get("TMPDIR")
    return [Path("/tmp"), *([Path(named)] if named else []), Path("/dev/shm")]


@contextlib.contextmanager
def private_folder(parents: Sequence[Path]) -> Iterator[Path]:
    """A new folder of mode 700 with a token (0600); removed in the end. `rays_own` is inside of it.

    Args:
        parents: to make it in, the first that can hold it.

    Raises:
        VisionOpdError: none of them can.
    """
    remove_left_behind(parents)
    folder = _make(parents)
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try_lock(lock)
        descriptor = os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def rays_own(folder: Path) -> Path:
    """What Ray may have for itself; it makes it."""
    return folder / _INNER


def _make(parents: Sequence[Path]) -> Path:
    reasons = []
    for parent in parents:
        room = _MAX_SOCKET_PATH - _RAYS_PART - _OWN_PART
        if len(os.fsencode(parent)) > room:
            reasons.append(f"{parent}: longer than {room} bytes, too long for Unix sockets in it")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
    raise VisionOpdError(
        f"no folder for temporary files ({'; '.join(reasons)}). Fix: make /tmp writable, or set "
        "TMPDIR to a short path that is"
    )


def remove_left_behind(parents: Sequence[Path]) -> None:
    """Remove our own ones, of launchers that were killed. Those of other users are left alone."""
    for parent in parents:
        for folder in parent.glob(f"{PREFIX}*"):
            owner = folder.name.removeprefix(PREFIX).partition("-")[0]
            if owner.isdigit() and not is_alive(int(owner)) and _is_ours_and_unused(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours_and_unused(folder: Path) -> bool:
    """Process ids say nothing of other containers that share /tmp; a lock does."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        descriptor = os.open(folder, flags)
    except OSError:
        return False  # not ours to look into, a link, or gone
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return False
        return try_lock(descriptor) is Lock.TAKEN
    except OSError:
        return False
    finally:
        os.close(descriptor)
