"""What one rollout server serves now, shared by its tasks: version, quarantine, figures."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import numpy as np

from common.group import Group


class Served(NamedTuple):
    """Weights that an engine serves. A version means something only within its history."""

    history: int
    version: int


class ServingState:
    """What one engine serves: nothing before the first push and after a failed one.

    Args:
        changed: notified of every change, for those who wait for several servers at once.
    """

    def __init__(self, changed: asyncio.Condition | None = None) -> None:
        self.weights: Served | None = None
        self.losses = 0  # how often it had to stop serving: what was generated then is void
        self.is_held_back = False
        self.is_paused = False
        self.pauses = 0
        self._changed = changed or asyncio.Condition()

    @property
    def version(self) -> int | None:
        return None if self.weights is None else self.weights.version

    @property
    def is_running(self) -> bool:
        """Whether the engine can be expected to generate now."""
        return self.weights is not None and not self.is_paused

    def note_pause(self) -> None:
        self.is_paused = True
        self.pauses += 1

    def note_resume(self) -> None:
        self.is_paused = False

    async def set(self, served: Served | None) -> None:
        async with self._changed:
            self._assign(served)
            self._changed.notify_all()

    def _assign(self, served: Served | None) -> None:
        self.losses += served is None
        self.weights = served

    async def wait(self) -> Served:
        """The weights, as soon as there are some. Cancel it to stop waiting."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.weights is not None)
            assert self.weights is not None
            return self.weights

    @contextlib.asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """Hold back what the engine generates inside: its weights are not verified yet."""
        self.is_held_back = True
        try:
            yield
        except BaseException:
            self._assign(None)
            raise
        finally:
            self.is_held_back = False
            async with self._changed:
                self._changed.notify_all()

    async def settled(self) -> Served | None:
        """What it serves, once the weights have been verified; None means that they are wrong."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.is_held_back)
            return self.weights


class Figures:
    """Counts for the dashboard. Rates are over the time since the last `take`."""

    def __init__(self) -> None:
        self.groups_in_flight = 0
        self.trajectories_total = 0
        self.tokens_total = 0
        self._rates: dict[str, float] = {}  # of the last interval; empty before its end
        self._idle_s = 0.0
        self._last_change = self._last_take = time.monotonic()
        self._tokens_at_take = 0

    def group_started(self) -> None:
        self._account_idle()
        self.groups_in_flight += 1

    def group_ended(self) -> None:
        self._account_idle()
        self.groups_in_flight -= 1

    def group_submitted(self, group: Group) -> None:
        self.trajectories_total += len(group.responses)
        self.tokens_total += group.responses.num_tokens

    def take(self, serving_version: int | None) -> dict[str, float]:
        """The gauges of a heartbeat; starts a new interval."""
        self._account_idle()
        now = time.monotonic()
        elapsed_s = max(now - self._last_take, 1e-9)
        self._rates = {
            "tokens_per_s": (self.tokens_total - self._tokens_at_take) / elapsed_s,
            "idle_share": float(np.clip(self._idle_s / elapsed_s, 0, 1)),
        }
        self._last_take, self._tokens_at_take, self._idle_s = now, self.tokens_total, 0.0
        return self.now(serving_version)

    def now(self, serving_version: int | None) -> dict[str, float]:
        """The gauges without a new interval: counts of now, rates of the last one."""
        return {
            **self._rates,
            "groups_in_flight": float(self.groups_in_flight),
            "serving_version": float(-1 if serving_version is None else serving_version),
            "trajectories_total": float(self.trajectories_total),
            "tokens_total": float(self.tokens_total),
        }

    def _account_idle(self) -> None:
        now = time.monotonic()
        if self.groups_in_flight == 0:
            self._idle_s += now - self._last_change
        self._last_change = now


def by_server(gauges: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Gauges of several servers as figures for Prometheus: by name, then by server."""
    figures: dict[str, dict[str, float]] = {}
    for server, values in gauges.items():
        for name, value in values.items():
            figures.setdefault(f"rollout/{name}", {})[server] = value
    return figures
