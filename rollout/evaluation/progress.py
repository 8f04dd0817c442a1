"""How far an evaluation is, and when it will be done: a line that changes, or one now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_S = 0.2  # between two versions of the line
_LOG_S = 15.0  # between two lines where there is no terminal


class ItemProgress:
    """A count of items, shown on a terminal or in a log.

    Args:
        total: how many there will be; None means unknown.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total = name, total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started = self._told = clock()
        self._done = self._asked = self._failed = 0

    def count(self, was_asked: bool, has_failed: bool) -> None:
        """Count one item more.

        Args:
            was_asked: now, not in an earlier run.
        """
        self._done += 1
        self._asked += was_asked
        self._failed += has_failed
        is_terminal = self._stream.isatty()
        if self._clock() - self._told >= (_TERMINAL_S if is_terminal else _LOG_S):
            self._told = self._clock()
            self._write(f"\r{self.line()}\033[K" if is_terminal else f"{self.line()}\n")

    def end(self) -> None:
        """Write the last line, which stays."""
        self._write(f"\r{self.line()}\033[K\n" if self._stream.isatty() else f"{self.line()}\n")

    def line(self) -> str:
        """A line such as "vstar: 120 of 191, 3 failed, 4.2 a second, 17 s left"."""
        of = "" if self._total is None else f" of {self._total}"
        parts = [f"{self._name}: {self._done}{of}"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        rate = self._asked / max(self._clock() - self._started, 1e-9)
        if self._asked:
            parts.append(f"{rate:.3g} a second")
        if self._asked and self._total is not None and self._done < self._total:
            parts.append(f"{_duration((self._total - self._done) / rate)} left")
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
