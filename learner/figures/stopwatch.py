"""Seconds by part of a step.

A part inside another one is taken out of it: the parts never overlap, so they add up to the time
that was spent in any of them. On a GPU the parts are bounded by events in the stream, whose times
are read when the seconds are asked for: the host never waits for the device to know the time.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch


class Clock(Protocol):
    """A source of marks in time."""

    def mark(self) -> Any:
        """A mark at this moment, in the order of the device's work."""

    def seconds(self, earlier: Any, later: Any) -> float:
        """Seconds between two marks. May wait until the device has passed them."""

    def moments(self, marks: Sequence[Any]) -> list[float]:
        """When each mark was passed, on time.monotonic's clock; the device has passed them all."""


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

    def spans(self) -> list[tuple[str, float, float]]:
        """The parts as they followed one another: name, begin, end, on time.monotonic's clock.

        Ask after `seconds`, which has waited for the device.
        """
        marks = [mark for _, earlier, later in self._spans for mark in (earlier, later)]
        times = self._clock.moments(marks)
        names = (name for name, _, _ in self._spans)
        return list(zip(names, times[::2], times[1::2], strict=True))

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
        return time.monotonic()

    def seconds(self, earlier: float, later: float) -> float:
        return later - earlier

    def moments(self, marks: Sequence[float]) -> list[float]:
        return list(marks)


class _StreamMark(NamedTuple):
    event: torch.cuda.Event
    asked: float  # when the host put it into the stream, on time.monotonic's clock


class _StreamClock:
    """Events in the stream that the calling thread computes on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> _StreamMark:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        asked = time.monotonic()
        event.record(torch.cuda.current_stream(self._device))
        return _StreamMark(event, asked)

    def seconds(self, earlier: _StreamMark, later: _StreamMark) -> float:
        later.event.synchronize()
        milliseconds: float = earlier.event.elapsed_time(later.event)
        return milliseconds / 1000

    def moments(self, marks: Sequence[_StreamMark]) -> list[float]:
        first = marks[0].event
        since = [first.elapsed_time(mark.event) / 1000 for mark in marks]
        return anchored([mark.asked for mark in marks], since)


def anchored(asked: Sequence[float], since: Sequence[float]) -> list[float]:
    """Times of a stream's events on the host's clock, without waiting for any.

    The device passes no event before the host has put it into the stream: that bounds when the
    first was passed, and the bound is met by each event that finds the stream empty. The first of a
    step does, as the step before ended with a wait for the device.

    Args:
        asked: when the host put each into the stream.
        since: seconds from the first event to each, on the device's clock.
    """
    began = max(host - device for host, device in zip(asked, since, strict=True))
    return [began + device for device in since]
