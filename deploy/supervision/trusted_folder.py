"""Whether a run folder is only its owner's to change.

A configuration is a program: it names the interpreters and options that are started. A user who
can write to the folder that a run is resumed from can have the launcher's user run anything.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from common.errors import ConfigError

_CHECKED = ("config.toml", "launcher.lock", "slurm.sh", "keys", "keys/server.json")
_ROOT = 0  # may do anything anyway


def make_private(folder: Path) -> None:
    """Make a folder that its owner alone can enter, where there is none. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def check_trusted(folder: Path) -> None:
    """Refuse a run folder over which others than its user decide.

    Raises:
        ConfigError: somebody else owns the run folder or a file that decides what is started, or
            can write to it.
    """
    try:
        paths = list(_that_are_there(folder))
        is_closed = bool(paths) and not stat.S_IMODE(folder.stat().st_mode) & 0o077
        reasons = [(path, _why_not(path, is_closed)) for path in paths]
    except OSError as error:
        raise ConfigError(
            f"run.folder = {str(folder)!r}: {error.strerror}. Fix: name a folder of yours"
        ) from error
    for path, reason in reasons:
        if reason is not None:
            raise ConfigError(
                f"run.folder = {str(folder)!r}: {path} {reason}, and it decides what this run "
                f"starts as you. Fix: if you trust what is in it, {_fix(path)}"
            )


def _that_are_there(folder: Path) -> Iterator[Path]:
    for path in (folder, *(folder / name for name in _CHECKED)):
        if path.exists() or path.is_symlink():
            yield path


def _why_not(path: Path, is_out_of_reach: bool) -> str | None:
    """Why others decide over its content. None means that they do not.

    Args:
        is_out_of_reach: it is in a folder that its owner alone can enter.
    """
    link, status = path.lstat(), path.stat()
    for owner in {link.st_uid, status.st_uid}:
        if owner not in (os.geteuid(), _ROOT):
            return f"belongs to {_user(owner)}"
    if is_out_of_reach:
        return None
    if status.st_mode & stat.S_IWOTH:
        return f"can be written by everybody (mode {stat.S_IMODE(status.st_mode):o})"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return f"can be written by the group {_group(status.st_gid)}"
    return None


def _fix(path: Path) -> str:
    if path.lstat().st_uid not in (os.geteuid(), _ROOT):
        return "copy it, and give --run.folder COPY --broker.keys COPY/keys, or run as its owner"
    return f"chmod go-w {path}"


def _is_own_group(gid: int) -> bool:
    """A group that many systems make for each user, with no other member."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
