"""What processes noted of themselves: RUN/spans/ROLE.jsonl (`common.spans` writes it)."""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEPT = ("name", "begin_s", "end_s")


@dataclass(frozen=True)
class Mark:
    """Something that a process did."""

    name: str
    begin: float  # seconds since 1970 on the clock of its machine
    end: float
    facts: dict[str, Any]

    @property
    def step(self) -> int | None:
        """The step that it belongs to; None means none."""
        step = self.facts.get("step")
        return step if isinstance(step, int) else None


def mark_files(run: Path) -> dict[str, Path]:
    """The files by role, broker first, numbers in their order; none in runs of before."""
    files = {path.stem: path for path in (run / "spans").glob("*.jsonl")}
    return {role: files[role] for role in sorted(files, key=_order)}


def _order(role: str) -> list[tuple[int, int, str]]:
    """rollout-2 comes before rollout-10."""
    parts = re.split(r"(\d+)", role)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def read_marks(path: Path) -> Iterator[Mark]:
    """Read the marks in the order in which they were noted; what is torn or makes no sense is not.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            mark = _mark(line)
            if mark is not None:
                yield mark


def _mark(line: bytes) -> Mark | None:
    try:
        found = json.loads(line)
        name, begin, end = str(found["name"]), float(found["begin_s"]), float(found["end_s"])
    except (ValueError, KeyError, TypeError):
        return None
    if not math.isfinite(begin) or not math.isfinite(end) or end < begin:
        return None
    return Mark(name, begin, end, {key: found[key] for key in found if key not in _KEPT})


class Undone:
    """Which steps of a learner were undone: it went back, or was started again, from before them.

    Args:
        begun: (when, from which step) of each of its lives, in their order.
    """

    def __init__(self, begun: list[tuple[float, int]]) -> None:
        self._times = [when for when, _ in begun]
        self._least: list[float] = [math.inf]  # step that any life after the n-th from the end had
        for _, step in reversed(begun):
            self._least.append(min(self._least[-1], step))
        self._least.reverse()

    def has(self, step: int, at: float) -> bool:
        """Whether what was done at that time for a step was undone later."""
        return step > self._least[bisect_right(self._times, at)]
