"""What a run folder says of a run: its configuration and the learner's rows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import load
from common.errors import ConfigError

Row = dict[str, Any]


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
    rows = _rows(folder / "metrics.jsonl", last_bytes)
    return RunFiles(
        folder,
        config,
        [row for row in rows if "learner/step_s" in row],
        [row for row in rows if "evaluation/seconds" in row],
        _summary(folder / "summary.json"),
        _rows(folder / "observations.jsonl", last_bytes),
    )


def _rows(path: Path, last_bytes: int | None) -> list[Row]:
    """The rows of a file, without one that is half written at its end; none if there is no file."""
    try:
        with path.open("rb") as file:
            begin = max(0, path.stat().st_size - last_bytes) if last_bytes is not None else 0
            file.seek(begin)
            *lines, _ = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Fix: make it readable") from None
    if begin:
        del lines[:1]  # its beginning was left out
    return [_row(line, path) for line in lines if line.strip()]


def _row(line: bytes, path: Path) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row["step"], int) or not isinstance(row["time_s"], int | float):
            raise ValueError("step and time_s are no numbers")
    except (ValueError, KeyError, TypeError) as error:
        shown = line[:60].decode(errors="replace")
        raise ConfigError(
            f"{path}: {shown!r} is no row of a run ({type(error).__name__}: {error}). "
            "Fix: remove that line, or name another run"
        ) from None
    return dict(row)


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
