"""The figures of a run by step, from metrics.jsonl and observations.jsonl, as far as written."""

import sys
import threading
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.figure_rows import RENAMED
from common.metrics import METRICS
from deploy.inspector.followed import FollowedRows, Row

Points = list[tuple[int, float]]


class _Columns:
    """Steps and values by metric, in the order in which they were written."""

    def __init__(self) -> None:
        self.steps: dict[str, array[int]] = {}
        self.values: dict[str, array[float]] = {}

    def add(self, row: Row) -> None:
        step = _step_of(row)
        if step is None:
            return
        for given, value in row.items():
            name = RENAMED.get(given, given)
            if name in METRICS and _is_number(value):
                self.steps.setdefault(name, array("q")).append(step)
                self.values.setdefault(name, array("d")).append(value)

    def points(self, name: str) -> dict[int, float]:
        """The last value of each step."""
        found = zip(self.steps.get(name, ()), self.values.get(name, ()), strict=True)
        return dict(found)


class RunFigures:
    """All figures of a run. Any thread may ask; each look reads what is new.

    The learner takes undone steps out of metrics.jsonl when it goes on from a checkpoint;
    observations.jsonl keeps them: there a line of an earlier step undoes the later ones before it.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._trained = FollowedRows(folder / "metrics.jsonl")
        self._observed = FollowedRows(folder / "observations.jsonl")
        self._columns, self._seen = _Columns(), _Observed()
        self._step, self._time_s = 0, 0.0

    def look(self) -> None:
        """Read what is new."""
        with self._lock:
            is_anew, rows = self._trained.look()
            if is_anew:
                self._columns, self._step, self._time_s = _Columns(), 0, 0.0
            for row in rows:
                self._columns.add(row)
                self._note(row)
            is_anew, rows = self._observed.look()
            if is_anew:
                self._seen = _Observed()
            self._seen.add(rows)

    def _note(self, row: Row) -> None:
        if "learner/step_s" in row:
            self._step = max(self._step, _step_of(row) or 0)
        if _is_number(row.get("time_s")):
            self._time_s = max(self._time_s, float(row["time_s"]))

    @property
    def step(self) -> int:
        """The newest step that was trained; 0: none."""
        return self._step

    @property
    def time_s(self) -> float:
        """Seconds of the run up to its newest row."""
        return self._time_s

    def points(self, name: str) -> Points:
        """Step and value of a metric by step; of values of one step the last counts."""
        with self._lock:
            found = self._columns.points(name) or self._seen.points(name, self._step)
        return sorted(found.items())

    def notes(self) -> list[str]:
        """What the files lack."""
        found = []
        for name, file in (("metrics", self._trained), ("observations", self._observed)):
            if file.has_torn_end:
                found.append(f"{name}.jsonl ends in a half-written line, which is not shown")
            if file.bad_lines:
                found.append(f"{name}.jsonl: {file.bad_lines} damaged lines are not shown")
        return found


class _Observed:
    """Rows of observations.jsonl, without those of steps that were undone."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            step = _step_of(row)
            if step is None:
                continue
            while self._rows and self._rows[-1]["step"] >= step:
                self._rows.pop()
            self._rows.append(row)

    def points(self, name: str, newest: int) -> dict[int, float]:
        """Points up to the newest step: of later ones, which were undone, nothing came yet."""
        rows = (row for row in self._rows if row["step"] <= newest)
        names = [name, *(old for old, new in RENAMED.items() if new == name)]
        return {row["step"]: row[n] for row in rows for n in names if _is_number(row.get(n))}


def _step_of(row: Row) -> int | None:
    """The step of a row. None means that it has none, or one that no run comes to."""
    step = row.get("step")
    return step if isinstance(step, int) and abs(step) < 2**53 else None


def _is_number(value: Any) -> bool:
    """Whether it is a finite number: an integer may be larger than any of them."""
    is_any = isinstance(value, int | float) and not isinstance(value, bool)
    return is_any and abs(value) <= sys.float_info.max
