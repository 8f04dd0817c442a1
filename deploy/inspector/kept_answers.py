"""Answers that cost seconds: computed once for a state of the run, and seldom while it changes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LEAST_S = 60.0  # between two computations for a run that goes on
_FILES = ("metrics.jsonl", "summary.json", "plan.json")  # that they are made from
Answer = dict[str, Any]
State = tuple[tuple[int, int] | None, ...]


class KeptAnswer:
    """One such answer about one run. Any thread may ask; others wait for the one that computes.

    Args:
        clock: seconds.
    """

    def __init__(
        self, run: Path, compute: Callable[[], Answer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._compute, self._clock = run, compute, clock
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        self._state: State = ()
        self._at_s = 0.0

    def __call__(self) -> Answer:
        with self._lock:
            state, now_s = self._state_now(), self._clock()
            is_old = state != self._state and now_s - self._at_s >= _LEAST_S
            if self._answer is None or is_old:
                self._answer, self._state, self._at_s = self._compute(), state, now_s
            return self._answer

    def _state_now(self) -> State:
        return tuple(_stamp(self._run / name) for name in _FILES)


def _stamp(path: Path) -> tuple[int, int] | None:
    """When a file was changed last, and its size. None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
