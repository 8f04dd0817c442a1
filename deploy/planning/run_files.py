"""What a run folder says of a run: its configuration and the learner's rows."""

import json
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.config_cli import load
from common.errors import ConfigError
from common.figure_rows import Row, read_rows


@dataclass(frozen=True)
class RunFiles:
    folder: Path
    config: RunConfig
    steps: list[Row]  # training rows in the order of steps
    measurements: list[Row]
    summary: Row | None  # None means that the run is not over

    @property
    def rows(self) -> list[Row]:
        """All rows, as they were written."""
        return sorted([*self.steps, *self.measurements], key=lambda row: row["time_s"])

    @property
    def is_over(self) -> bool:
        return self.summary is not None


def read_run(folder: Path) -> RunFiles:
    """Read a run, also while it goes on.

    Raises:
        ConfigError: no run is there, or a row of it is none.
    """
    config_file = folder / "config.toml"
    if not config_file.is_file():
        raise ConfigError(f"RUN = {str(folder)!r} holds no run. Fix: name a run folder")
    rows = read_rows(folder / "metrics.jsonl")
    summary = folder / "summary.json"
    return RunFiles(
        folder,
        load(["--config", str(config_file)]),
        [row for row in rows if "learner/step_s" in row],
        [row for row in rows if "evaluation/stall_s" in row],
        json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else None,
    )
