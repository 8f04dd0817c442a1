"""Seconds by part of a step, with the device synchronised so that each part gets its own.

A part inside another one is taken out of it: the parts never overlap, so they add up to the time
that was spent in any of them.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []  # parts under way, the innermost last
        self._since = 0.0  # when the innermost one's own time was last counted

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Give the time since the last change to the part that was under way."""
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()
