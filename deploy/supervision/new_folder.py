"""A folder for a run that is given none: no two launches get the same one."""

import contextlib
import itertools
import time
from pathlib import Path

from common.config import RunConfig
from deploy.options import run_folder


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
    return config.model_copy(update={"run": config.run.model_copy(update={"folder": folder})})


def _make(wanted: Path) -> Path:
    wanted.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([wanted.name], (f"{wanted.name}-{n}" for n in itertools.count(2)))
    while True:
        folder = wanted.with_name(next(names))
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            return folder
