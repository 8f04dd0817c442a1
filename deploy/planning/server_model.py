"""A rollout server in virtual time: groups in flight share it, and it stands still in a push.

With c groups in flight each is done `alone_s + c * shared_s` after its start, times its own work;
when c changes on the way, the rest goes at the new speed (processor sharing).
"""

import heapq
import math
from dataclasses import dataclass, field

from broker.ledger.entry import Entry

_ROUNDING = 1e-9  # share of a group's work that is taken for nothing


@dataclass(order=True, frozen=True)
class Running:
    """One group in flight."""

    until_mark: float  # the server's progress at which the group is done
    number: int
    entry: Entry = field(compare=False)
    oldest_version: int = field(compare=False)


class ServerModel:
    """One rollout server in virtual time.

    Args:
        alone_s, shared_s: of a group of average work.
        capacity: groups at once.
    """

    def __init__(self, name: str, alone_s: float, shared_s: float, capacity: int) -> None:
        self.owner = (name, 0)
        self.version = -1  # of the weights that are served
        self.capacity = capacity
        self.busy_s = 0.0  # seconds with at least one group in flight
        self.stamp = 0  # grows with every change, which voids what was foretold before
        self._alone_s = alone_s
        self._shared_s = shared_s
        self._running: list[Running] = []
        self._mark = 0.0  # work done on each group that has been here all the time
        self._now = 0.0
        self._is_paused = False
        self._numbers = 0

    @property
    def room(self) -> int:
        return self.capacity - len(self._running)

    def start(self, entry: Entry, work: float, now: float) -> None:
        self.advance(now)
        self._numbers += 1
        running = Running(self._mark + work, self._numbers, entry, self.version)
        heapq.heappush(self._running, running)

    def pause(self, now: float) -> None:
        self.advance(now)
        self._is_paused = True

    def resume(self, version: int, now: float) -> None:
        self.advance(now)
        self._is_paused = False
        self.version = version

    def take_done(self, now: float) -> list[Running]:
        """The groups that are done now, which `next_done` has foretold: one at least."""
        self.advance(now)
        self._mark = max(self._mark, self._running[0].until_mark)  # whatever the rounding
        done = []
        while self._running and self._running[0].until_mark <= self._mark + _ROUNDING:
            done.append(heapq.heappop(self._running))
        return done

    def next_done(self) -> float:
        """When the next group will be done if nothing changes; infinite if none will."""
        if not self._running or self._is_paused:
            return math.inf
        return self._now + max(0.0, self._running[0].until_mark - self._mark) * self._round_s

    def advance(self, now: float) -> None:
        """Let time pass. The next group must not be done before `now`."""
        elapsed = now - self._now
        if self._running:
            self.busy_s += elapsed
            if not self._is_paused:
                self._mark += elapsed / self._round_s
        self._now = now
        self.stamp += 1

    @property
    def _round_s(self) -> float:
        return max(self._alone_s + len(self._running) * self._shared_s, _ROUNDING)
