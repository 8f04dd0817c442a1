"""A run folder is written last, and what is refused leaves it as it was."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.config import RunConfig
from common.errors import ConfigError
from common.files import replace_text
from deploy.options import run_folder
from deploy.supervision.run_folder import (
    LOCK,
    check_folder,
    check_unowned,
    open_run_folder,
    owned,
    with_folder_of_its_own,
)

_REWRITTEN = ("config.toml", "summary.json")
_LOGS = "logs"
_CHECKPOINTS = "checkpoints"


class Footprint:
    """What a folder was like before a run was begun in it, to be brought back if it is refused.

    Logs, and what processes have written in a run that goes on, stay: they tell of the refusal.
    """

    def __init__(self, folder: Path, new: Sequence[Path] | None = None) -> None:
        """Before anything is made.

        Args:
            new: folders that this launch has made or will make, the innermost first; none: those
                that are not there yet.
        """
        self._folder = folder
        self._new = missing(folder) if new is None else list(new)
        self._has_lock = (folder / LOCK).exists()
        self._is_ours = False
        self._files: dict[str, bytes | None] = {}
        self._names: set[str] = set()
        self._checkpoints: set[str] = set()

    @property
    def has_new_checkpoints(self) -> bool:
        """Whether steps were trained, also if the supervisor has seen none."""
        return bool(_names(self._folder / _CHECKPOINTS) - self._checkpoints)

    def take(self) -> None:
        """Look at its files, once no other launcher writes there any more."""
        self._is_ours = True
        self._files = {name: _content(self._folder / name) for name in _REWRITTEN}
        self._names = _names(self._folder)
        self._checkpoints = _names(self._folder / _CHECKPOINTS)
        if not self._has_lock and self._files["config.toml"] is None:
            self._names.discard(LOCK)

    def restore(self, keeps_logs: bool) -> None:
        """Files are as they were; of a new run nothing is left, but logs where they are kept."""
        if self._is_ours:
            self._restore_files(keeps_logs)
        for path in self._new:
            with contextlib.suppress(OSError):
                path.rmdir()  # the innermost first, and only if nothing is left in it

    def _restore_files(self, keeps_logs: bool) -> None:
        for name, content in self._files.items():
            if content is not None and content != _content(self._folder / name):
                replace_text(self._folder / name, content.decode())
        if self._files["config.toml"] is not None and keeps_logs:
            return
        kept = {_LOGS} if keeps_logs else set()
        for name in _names(self._folder) - self._names - kept:
            path = self._folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def begun(config: RunConfig, now: time.struct_time) -> Iterator[tuple[RunConfig, Path, Footprint]]:
    """The folder of a run that begins or goes on; no other launcher runs it inside the block.

    Yields:
        The configuration that names the folder, the folder, and what it was like before.

    Raises:
        ConfigError: as `owned` and `open_run_folder`; the folder is then as it was.
    """
    absent = missing(run_folder(config, now).parent)
    is_unnamed = config.run.folder is None
    config = with_folder_of_its_own(config, now)
    folder = run_folder(config, now)
    footprint = Footprint(folder, [folder, *absent] if is_unnamed else None)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(owned(folder))
            footprint.take()
            config, folder = open_run_folder(config, now)
        except BaseException:
            footprint.restore(keeps_logs=False)
            raise
        yield config, folder, footprint


def check_before(config: RunConfig, folder: Path) -> None:
    """The same without a trace, and hours earlier; `begun` is what holds.

    Raises:
        ConfigError: as `check_folder`, or a launcher runs it, or nothing can be written there.
    """
    check_folder(config, folder)
    _check_writable(folder)
    check_unowned(folder)


def _check_writable(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    reason = None
    if not nearest.is_dir():
        reason = "is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = "cannot be written by this user"
    if reason is not None:
        raise ConfigError(
            f"run.folder = {str(folder)!r}: {nearest} {reason}. Fix: --run.folder FOLDER, one that "
            "you may write to"
        )


def missing(folder: Path) -> list[Path]:
    """Folders that are not there yet, of this one and those it is in; the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
