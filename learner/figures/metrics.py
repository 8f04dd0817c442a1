"""The rows of figures, RUN/metrics.jsonl and RUN/groups.jsonl, and the trackers that get them."""

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.figure_rows import Row, row_of
from common.files import replace_text, whole_lines
from common.full_disk import append_whole, when_there_is_room
from common.metrics import METRICS
from learner.figures.trackers import Tracker


class RowFile:
    """A file of rows, one JSON object a line. On a full disk it waits for room.

    Args:
        is_over: asked while it waits: whether to give up, with DiskFull.
    """

    def __init__(self, path: Path, is_over: Callable[[], bool]) -> None:
        self._path = path
        self._is_over = is_over
        self._file = when_there_is_room(lambda: io.FileIO(path, "a"), path, is_over)

    def append(self, rows: Iterable[Row]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        when_there_is_room(lambda: append_whole(self._file, lines), self._path, self._is_over)

    def close(self) -> None:
        self._file.close()


class MetricsLog:
    """The log of a run's figures: RUN/metrics.jsonl, and the same in trackers.

    Args:
        step: that the run goes on from; rows of later steps are removed.
        is_over: as for `RowFile`.
        columns: sample_id -> cell, by column of the data: RUN/groups.jsonl has them beside the
            figures of each group that was trained; without a column there is no such file.
    """

    def __init__(
        self,
        run_folder: Path,
        step: int = 0,
        is_over: Callable[[], bool] = lambda: False,
        columns: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        when_there_is_room(lambda: run_folder.mkdir(parents=True, exist_ok=True), run_folder)
        path, groups = run_folder / "metrics.jsonl", run_folder / "groups.jsonl"
        rows = when_there_is_room(lambda: _keep_rows(path, step), path, is_over)
        when_there_is_room(lambda: _keep_rows(groups, step), groups, is_over)
        self._file = RowFile(path, is_over)
        # The time of the last row that stays.
        self.time_s: float = max((row["time_s"] for row in rows), default=0.0)
        self._measured = {row["step"]: row for row in rows if "evaluation/full_accuracy" in row}
        self._columns = columns or {}
        self._groups = RowFile(groups, is_over) if columns or groups.exists() else None
        self._trackers: list[Tracker] = []

    def add(self, tracker: Tracker) -> None:
        """Give a tracker all that is written from now on; `close` closes it."""
        self._trackers.append(tracker)

    def measured_at(self, step: int) -> Row | None:
        """The measurement of that version by an earlier life of the run, if it was made."""
        return self._measured.get(step)

    def write(self, step: int, time_s: float, metrics: Mapping[str, float], **texts: str) -> None:
        """Append a row.

        Args:
            texts: go into the row as learner/KEY, those that are not empty.
        """
        figures = _finite(metrics)
        named = {f"learner/{key}": text for key, text in texts.items() if text}
        undeclared = (figures | named).keys() - METRICS.keys()
        assert not undeclared, f"declare them in common.metrics: {undeclared}"
        self._file.append([{"step": step, "time_s": round(time_s, 3), **figures, **named}])
        for tracker in self._trackers:
            tracker.write(step, figures)

    def write_groups(self, step: int, rows: Sequence[Row]) -> None:
        """Append rows of `StepFigures.of_groups`, with the kept columns of their samples."""
        if self._groups is None:
            return
        kept = self._columns.items()
        cells = [{name: column.get(row["sample_id"]) for name, column in kept} for row in rows]
        self._groups.append(
            {"step": step, "columns": c, **_finite(r)} for c, r in zip(cells, rows, strict=True)
        )

    def close(self) -> None:
        """Close all, the trackers at the same time: each may take as long as one may."""
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor())
            for tracker in self._trackers:
                stack.callback(pool.submit(tracker.close).result)
            if self._groups is not None:
                stack.callback(self._groups.close)
            stack.callback(self._file.close)


def _finite(figures: Mapping[str, Any]) -> Row:
    odd = {key for key, v in figures.items() if isinstance(v, float) and not math.isfinite(v)}
    return {key: None if key in odd else value for key, value in figures.items()}


def _keep_rows(path: Path, step: int) -> list[Row]:
    """Leave only whole rows of steps up to `step` in the file, and return them."""
    if not path.exists():
        return []
    rows = [(line, row_of(line, path, n)) for n, line in enumerate(whole_lines(path), 1)]
    kept = [(line, row) for line, row in rows if row["step"] <= step]
    replace_text(path, "".join(line for line, _ in kept))
    return [row for _, row in kept]
