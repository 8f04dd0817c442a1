"""RUN/metrics.jsonl and RUN/tensorboard: one JSON object a step, one a measurement.

Every row has "step" (the version that the row describes; 0: before training) and "time_s" (seconds
since the learner began). Other keys are there when they apply; values are finite numbers or null,
and one is a text. A learner that goes on from a checkpoint removes the rows of the steps that are
undone, and counts seconds on from the last row that stays: there is one training row a step, and
time only grows. The clock of a process does not go back when a health gate has it go back to a
checkpoint.

The figures and what they mean are declared in `common.metrics`; a row of a step has all that apply
to it, and health/action unless all gates are off. Rollout servers measure while training goes on:
a measuring row stands where it was known, after rows of later steps perhaps.
"""

import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.files import replace_text, whole_lines
from common.full_disk import append_whole, when_there_is_room
from common.metrics import METRICS
from learner.figures.tensorboard import TensorboardFile

logger = logging.getLogger(__name__)
Row = dict[str, Any]


class MetricsLog:
    """The log of a run's figures: RUN/metrics.jsonl, and the same in RUN/tensorboard.

    On a full disk it waits for room.

    Args:
        step: that the run goes on from; rows of later steps are removed.
        is_over: asked while it waits: whether to give up, with DiskFull.
    """

    def __init__(
        self, run_folder: Path, step: int = 0, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._path = run_folder / "metrics.jsonl"
        self._is_over = is_over
        when_there_is_room(lambda: run_folder.mkdir(parents=True, exist_ok=True), run_folder)
        rows = when_there_is_room(lambda: _keep_rows(self._path, step), self._path, is_over)
        # The time of the last row that stays.
        self.time_s: float = max((row["time_s"] for row in rows), default=0.0)
        self._measured = {row["step"]: row for row in rows if "evaluation/full_accuracy" in row}
        self._file = when_there_is_room(lambda: io.FileIO(self._path, "a"), self._path, is_over)
        self._tensorboard = _open_tensorboard(run_folder / "tensorboard", step, is_over)

    def measured_at(self, step: int) -> Row | None:
        """The measurement of that version by an earlier life of the run, if it was made."""
        return self._measured.get(step)

    def write(self, step: int, time_s: float, metrics: Mapping[str, float], **texts: str) -> None:
        """Append a row.

        Args:
            texts: go into the row as learner/KEY, those that are not empty.
        """
        figures = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        named = {f"learner/{key}": text for key, text in texts.items() if text}
        undeclared = (figures | named).keys() - METRICS.keys()
        assert not undeclared, f"declare them in common.metrics: {undeclared}"
        row = {"step": step, "time_s": round(time_s, 3), **figures, **named}
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        when_there_is_room(lambda: append_whole(self._file, line), self._path, self._is_over)
        if self._tensorboard is not None:
            self._tensorboard.write(step, figures)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _keep_rows(path: Path, step: int) -> list[Row]:
    """Leave only whole rows of steps up to `step` in the file, and return them."""
    if not path.exists():
        return []
    kept = [(line, row) for line in whole_lines(path) if (row := json.loads(line))["step"] <= step]
    replace_text(path, "".join(line for line, _ in kept))
    return [row for _, row in kept]


def _open_tensorboard(
    folder: Path, step: int, is_over: Callable[[], bool]
) -> TensorboardFile | None:
    try:
        return TensorboardFile(folder, step, is_over)
    except ImportError:
        logger.info("tensorboard is not installed: metrics.jsonl only")
        return None
