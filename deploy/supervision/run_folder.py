"""The run folder: where everything that a run leaves behind is, and what it goes on from."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from broker.keys import SERVER_FILE, make_keys
from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import ConfigError
from deploy.options import run_folder

LOCK = "launcher.lock"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """No other launcher, here or on a machine that shares the folder, runs this run meanwhile.

    Raises:
        ConfigError: one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"run.folder = {str(folder)!r}: another launcher runs it ({error.strerror}). Fix: "
                f"end that one, or name another folder. python -m deploy.status {folder}"
            ) from None
        yield


def open_run_folder(config: RunConfig, now: time.struct_time) -> tuple[RunConfig, Path]:
    """Create the folder with its config.toml, or go on with it; returns the config that names it.

    Raises:
        ConfigError: it holds a run already, or none that could be resumed.
    """
    folder = run_folder(config, now)
    holds_run = (folder / "config.toml").exists()
    if holds_run and not config.run.resume:
        raise ConfigError(
            f"run.folder = {str(folder)!r} holds a run already. Fix: name another folder, or go on "
            f"with this run: --config {folder / 'config.toml'} --run.resume true"
        )
    if config.run.resume and not holds_run:
        raise ConfigError(
            f"run.resume = true, but run.folder = {str(folder)!r} holds no run. Fix: --config "
            "RUN/config.toml --run.resume true, where RUN is the folder of the run"
        )
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # it told of an end that is none
    # The file does not say resume: whoever starts with it must ask for that each time.
    run = config.run.model_copy(update={"folder": folder, "resume": False})
    config = _with_keys(config.model_copy(update={"run": run}), folder)
    # Nor does it say on which Ray: the next launch may find another one, or none.
    cluster = config.cluster.model_copy(update={"address": None})
    kept = config.model_copy(update={"cluster": cluster})
    (folder / "config.toml").write_text(dump_toml(kept), encoding="utf-8")
    return config, folder


def _with_keys(config: RunConfig, folder: Path) -> RunConfig:
    """On one machine, too: there every user can reach the broker's port."""
    if config.broker.keys is not None:
        return config
    keys = folder / "keys"
    if not (keys / SERVER_FILE).exists():  # it is made last
        make_keys(keys, replace=True)
    broker = config.broker.model_copy(update={"keys": keys})
    return config.model_copy(update={"broker": broker})
