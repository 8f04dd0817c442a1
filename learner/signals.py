"""What signals ask of the learner's process. A roll-back changes the feed, but not the wish."""

import os
import signal
from collections.abc import Callable

from learner.feed import Feed


class Signals:
    """SIGTERM or SIGINT interrupts the feed, the second ends at once; SIGUSR1 calls `resume`.

    From the first `attach` on; it belongs to the main thread.

    Args:
        resume: safe in a signal handler.
    """

    def __init__(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._feed: Feed | None = None
        self._is_interrupted = False

    def attach(self, feed: Feed) -> None:
        """Interrupts it at once if a signal came while there was none."""
        self._feed = feed
        if self._is_interrupted:
            feed.interrupt()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        signal.signal(signal.SIGUSR1, lambda *_: self._resume())

    def detach(self) -> None:
        """Forget the feed, and with it all that it was made of."""
        self._feed = None

    def _on_end(self, number: int, _frame: object) -> None:
        if self._is_interrupted:
            os._exit(128 + number)
        self._is_interrupted = True
        if self._feed is not None:
            self._feed.interrupt()
