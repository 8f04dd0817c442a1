"""Asks the supervisor what there is to see, whenever somebody wants to know what is waited for."""

import asyncio
import time
from typing import Protocol

from broker.protocol import Status
from common.config import RunConfig
from deploy.showing.situation import Look, Situation
from deploy.supervision.process_table import ProcessTable
from deploy.supervision.silence import SilenceWatch


class Supervised(Protocol):
    """The part of the supervisor that is looked at."""

    table: ProcessTable
    silence: SilenceWatch
    status: Status | None


class Lookout:
    """A view that remembers when the broker last answered.

    Args:
        stop: set when the run is to end.
    """

    def __init__(self, config: RunConfig, supervisor: Supervised, stop: asyncio.Event) -> None:
        self._urls = config.rollout.engine_urls
        self._supervisor = supervisor
        self._stop = stop
        self._situation = Situation()
        self._answered = time.monotonic()

    def update(self, status: Status, elapsed_s: float) -> None:
        self._answered = time.monotonic()

    def __call__(self, at_least_s: float) -> dict[str, str]:
        now = time.monotonic()
        silence = self._supervisor.silence
        limits = {name: silence.limit_s(name) for name in silence.silent_s}
        look = Look(
            self._supervisor.status,
            now - self._answered,
            self._supervisor.table.entries(),
            dict(silence.silent_s),
            {name: limit_s for name, limit_s in limits.items() if limit_s is not None},
            self._urls,
            self._stop.is_set(),
        )
        self._situation.look(look, now)
        return self._situation.lines(at_least_s)
