"""Seconds by part of a step.

A part inside another one is taken out of it: the parts never overlap, so they add up to the time
that was spent in any of them. On a GPU the parts are bounded by events in the stream, whose times
are read when the seconds are asked for: the host never waits for the device to know the time.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """A source of marks in time."""

    def mark(self) -> Any:
        """A mark at this moment, in the order of the device's work."""

    def seconds(self, earlier: Any, later: Any) -> float:
        """Seconds between two marks. May wait until the device has passed them."""


class Stopwatch:
    """Seconds by part, for one step."""

    def __init__(self, device: torch.device, clock: Clock | None = None) -> None:
        self._clock = clock or (_StreamClock(device) if device.type == "cuda" else _HostClock())
        self._spans: list[tuple[str, Any, Any]] = []
        self._open: list[str] = []  # parts under way, the innermost last
        self._since: Any = None  # when the innermost one's own time was last counted

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part, of all that is over; waits for the device, so ask after a step."""
        found: defaultdict[str, float] = defaultdict(float)
        for name, earlier, later in self._spans:
            found[name] += self._clock.seconds(earlier, later)
        return dict(found)

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
        now = self._clock.mark()
        if self._open:
            self._spans.append((self._open[-1], self._since, now))
        self._since = now


class _HostClock:
    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, earlier: float, later: float) -> float:
        return later - earlier


class _StreamClock:
    """Events in the stream that the calling thread computes on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, earlier: torch.cuda.Event, later: torch.cuda.Event) -> float:
        later.synchronize()
        milliseconds: float = earlier.elapsed_time(later)
        return milliseconds / 1000
