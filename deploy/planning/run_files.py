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
    observations: list[Row]  # the launcher's, of servers and queue

    @property
    def rows(self) -> list[Row]:
        """All rows, as they were written."""
        return sorted([*self.steps, *self.measurements], key=lambda row: row["time_s"])

    @property
    def is_over(self) -> bool:
        return self.summary is not None


def read_run(folder: Path, last_bytes: int | None = None) -> RunFiles:
    """Read a run, also while it goes on.

    Args:
        last_bytes: read no more than that from the end of each file of rows; None reads all.

    Raises:
        ConfigError: no run is there, or a file of it is damaged.
    """
    config_file = folder / "config.toml"
    if not config_file.is_file():
        raise ConfigError(f"RUN = {str(folder)!r} holds no run. Fix: name a run folder")
    config = load(["--config", str(config_file)])
    rows = _steps_of(folder / "metrics.jsonl", last_bytes)
    return RunFiles(
        folder,
        config,
        [row for row in rows if "learner/step_s" in row],
        [row for row in rows if "evaluation/stall_s" in row],
        _summary(folder / "summary.json"),
        _steps_of(folder / "observations.jsonl", last_bytes),
    )


def _steps_of(path: Path, last_bytes: int | None) -> list[Row]:
    rows = read_rows(path, last_bytes)
    for row in rows:
        if not all(isinstance(row.get(key), int | float) for key in ("step", "time_s")):
            raise ConfigError(f"{path}: {str(row)[:60]} has no step and time_s. Fix: remove it")
    return rows


def _summary(path: Path) -> Row | None:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(summary, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}. Fix: remove it; metrics.jsonl has the steps") from None
    return summary
