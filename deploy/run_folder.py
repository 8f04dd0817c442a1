"""The run folder: where everything that a run leaves behind is."""

import time
from pathlib import Path

from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import ConfigError
from deploy.roles import ROOT


def make_run_folder(config: RunConfig, now: time.struct_time) -> tuple[RunConfig, Path]:
    """Create the folder with its config.toml; returns the config that names it.

    Raises:
        ConfigError: it exists and holds a run already.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", now)
    folder = (config.run.folder or ROOT / "runs" / f"{config.run.name}-{stamp}").absolute()
    if (folder / "config.toml").exists():
        raise ConfigError(
            f"run.folder = {str(folder)!r} holds a run already. Fix: name another folder"
        )
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    config = config.model_copy(update={"run": config.run.model_copy(update={"folder": folder})})
    (folder / "config.toml").write_text(dump_toml(config), encoding="utf-8")
    return config, folder
