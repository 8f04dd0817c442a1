"""The run folder: where everything that a run leaves behind is, and what it goes on from."""

import contextlib
import itertools
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from broker.keys import SERVER_FILE, make_keys
from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import ConfigError
from common.files import replace_text
from common.lifecycle import is_alive
from common.locks import Lock, try_lock
from deploy.options import run_folder
from deploy.supervision.trusted_folder import check_trusted, make_private

LOCK = "launcher.lock"
_LAUNCHER = "launcher.json"  # as `deploy.supervision.launcher_api` writes it


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """No other launcher, here or on a machine that shares the folder, runs this run meanwhile.

    Raises:
        ConfigError: one does, or others than this user decide what is in the folder.
    """
    check_trusted(folder)
    make_private(folder)
    with (folder / LOCK).open("a") as file:
        lock = try_lock(file.fileno())
        if lock is Lock.UNKNOWN:
            print(f"the file system of {folder} knows no locks", file=sys.stderr, flush=True)
        _refuse_another(folder, lock)
        yield


def check_unowned(folder: Path) -> None:
    """The same without a trace, and hours earlier; `owned` is what holds. Raises ConfigError."""
    try:
        with (folder / LOCK).open("rb") as file:
            lock = try_lock(file.fileno(), is_shared=True)
    except OSError:
        return  # none is there, or it is another user's: writing will fail with the reason
    _refuse_another(folder, lock)


def _refuse_another(folder: Path, lock: Lock) -> None:
    other = "another launcher" if lock is Lock.HELD else None
    if lock is Lock.UNKNOWN:
        other = _launcher_by_its_file(folder)
    if other is not None:
        raise ConfigError(
            f"run.folder = {str(folder)!r}: {other} runs it. Fix: end that one, or name "
            f"another folder. python -m deploy.status {folder}"
        )


def _launcher_by_its_file(folder: Path) -> str | None:
    """The launcher that runs it, as far as its file says. None means none, or one that is gone."""
    try:
        document = json.loads((folder / _LAUNCHER).read_text(encoding="utf-8"))
        host, pid = str(document["host"]), int(document["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname():
        return f"a launcher on {host} (if it does no more, remove {folder / _LAUNCHER})"
    return f"the launcher with process id {pid}" if is_alive(pid) else None


def with_folder_of_its_own(config: RunConfig, now: time.struct_time) -> RunConfig:
    """The configuration, which names a run folder; a new one is made where it named none.

    The name is that of `run_folder`, with a number behind it where another launch of the same
    second has that.

    Raises:
        OSError: it cannot be made.
    """
    if config.run.folder is not None or config.run.resume:
        return config
    folder = _make(run_folder(config, now))
    return config.changed(run={"folder": folder})


def _make(wanted: Path) -> Path:
    wanted.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([wanted.name], (f"{wanted.name}-{n}" for n in itertools.count(2)))
    while True:
        folder = wanted.with_name(next(names))
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder


def open_run_folder(config: RunConfig, now: time.struct_time) -> tuple[RunConfig, Path]:
    """Create the folder with its config.toml, or go on with it; returns the config that names it.

    Raises:
        ConfigError: as `check_folder`.
    """
    folder = run_folder(config, now)
    check_folder(config, folder)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    # The file does not say resume: each start with it has to ask for that.
    config = _with_keys(config.changed(run={"folder": folder, "resume": False}), folder)
    # Nor does it say on which Ray: the next launch may find another one, or none.
    replace_text(folder / "config.toml", dump_toml(config.changed(cluster={"address": None})))
    (folder / "summary.json").unlink(missing_ok=True)  # it told of an end that is none
    return config, folder


def check_folder(config: RunConfig, folder: Path, further: str = "") -> None:
    """A new run gets a folder without one, a resumed run one that holds it.

    Args:
        further: options of the launcher that belong into the fix.

    Raises:
        ConfigError: it holds a run already, or none that could be resumed.
    """
    holds_run = (folder / "config.toml").exists()
    if holds_run and not config.run.resume:
        raise ConfigError(
            f"run.folder = {str(folder)!r} holds a run already. Fix: name another folder, or go on "
            f"with this run: --config {folder / 'config.toml'} --run.resume true{further}"
        )
    if config.run.resume and not holds_run:
        raise ConfigError(
            f"run.resume = true, but run.folder = {str(folder)!r} holds no run. Fix: --config "
            f"RUN/config.toml --run.resume true{further}, where RUN is the folder of the run"
        )


def _with_keys(config: RunConfig, folder: Path) -> RunConfig:
    """On one machine, too: there every user can reach the broker's port."""
    if config.broker.keys is not None:
        return config
    keys = folder / "keys"
    if not (keys / SERVER_FILE).exists():  # it is made last
        make_keys(keys, replace=True)
    return config.changed(broker={"keys": keys})
