"""What a run folder says of a run: its configuration and the learner's rows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import load
from common.errors import ConfigError
from common.files import whole_lines

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    folder: Path
    config: RunConfig
    steps: list[Row]  # training rows, by step
    measurements: list[Row]
    summary: Row | None  # None while the run is not over

    @property
    def rows(self) -> list[Row]:
        """All of them, as they were written."""
        return sorted([*self.steps, *self.measurements], key=lambda row: row["time_s"])

    @property
    def is_over(self) -> bool:
        return self.summary is not None


def read_run(folder: Path) -> RunFiles:
    """Also while the run goes on.

    Raises:
        ConfigError: no run is there.
    """
    config_file = folder / "config.toml"
    if not config_file.is_file():
        raise ConfigError(f"RUN = {str(folder)!r} holds no run. Fix: name a run folder")
    lines = whole_lines(folder / "metrics.jsonl")
    rows: list[Row] = [json.loads(line) for line in lines if line.strip()]
    summary = folder / "summary.json"
    return RunFiles(
        folder,
        load(["--config", str(config_file)]),
        [row for row in rows if "learner/step_s" in row],
        [row for row in rows if "evaluation/seconds" in row],
        json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else None,
    )
