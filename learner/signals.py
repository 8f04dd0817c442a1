"""Signals to the learner's process; a request to end outlives the feed of a roll-back."""

import os
import signal
from collections.abc import Callable

from learner.feed import Feed


class Signals:
    """Handlers: SIGTERM or SIGINT interrupts the feed, a second ends at once, SIGUSR1 resumes.

    From the first `attach` on; it belongs to the main thread.

    Args:
        resume: safe in a signal handler.
    """

    def __init__(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._feed: Feed | None = None
        self._is_interrupted = False

    def attach(self, feed: Feed) -> None:
        """Handle signals for this feed; interrupt it at once if one came while there was none."""
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
