"""A run in virtual time: the broker's own ledger, with servers and a learner that take their time.

    server   asks for leases > generates (server_model) > submits              | paused in a push
    learner  takes > prepares > trains > acknowledges > announces the weights  | waits for its batch

Admission, order, slots and staleness are decided by `broker.ledger.ledger.Ledger`, so they are
those of the real system, not a formula for it.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from broker.ledger.entry import Receipt, Rules, Shard
from broker.ledger.ledger import Ledger
from broker.protocol import Role
from common.source import SampleSource
from common.types import Box, ImageRef, Sample
from deploy.planning.rates import Rates
from deploy.planning.server_model import ServerModel

STEPS = 48
_LEARNER = ("learner-0", 0)
_FOREVER_S = 1e12  # so long that no lease lapses
_ASK_AGAIN_S = 5.0  # after which a worker asks for leases anew
_SAMPLE = Sample(
    sample_id="simulated",
    problem="<image>",
    image=ImageRef(sha256="0" * 64, path="simulated", width=1, height=1),
    box=Box(x1=0, y1=0, x2=1, y2=1),
    crop=None,
)


@dataclass(frozen=True)
class Setup:
    """What is simulated. Seconds, as in `rates.Rates`."""

    servers: int
    capacity: int  # groups at once of a server
    groups_per_step: int
    max_staleness: int
    alone_s: float
    shared_s: float
    learner_s: float  # seconds of a step without waiting
    prepare_s: float = 0.0
    push_s: float = 0.0
    pause_s: float = 0.0
    spread: tuple[float, ...] = (1.0,)
    steps: int = STEPS
    max_leases: int = 256

    @classmethod
    def of(
        cls, rates: Rates, servers: int, capacity: int, max_staleness: int, steps: int = STEPS
    ) -> "Setup":
        return cls(
            servers=servers,
            capacity=capacity,
            groups_per_step=rates.groups_per_step,
            max_staleness=max_staleness,
            alone_s=rates.group_alone_s.value,
            shared_s=rates.group_shared_s.value,
            learner_s=rates.step_s(),
            prepare_s=rates.prepare_s.value,
            push_s=rates.push_s.value,
            pause_s=min(rates.pause_s.value, rates.push_s.value),
            spread=rates.spread,
            steps=steps,
        )


@dataclass(frozen=True)
class Outcome:
    """Figures of the steps between warm-up and the last ones, for which no more is generated."""

    step_s: float
    learner_idle_share: float  # of the time, waiting for a batch
    rollout_idle_share: float  # of the servers' time, without a group in flight
    staleness_mean: float  # mean over all steps, in versions
    staleness_max: int
    first_step_s: float  # when the first step ended
    last_step_s: float


@lru_cache(maxsize=256)
def simulate(setup: Setup) -> Outcome:
    """What would happen. Kept for the next who asks: 0.03 s for 32 groups a step, 0.6 s for 512."""
    return _Run(setup).run()


class _Run:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        count = setup.steps * setup.groups_per_step
        rules = Rules(
            groups_per_step=setup.groups_per_step,
            max_staleness=setup.max_staleness,
            trajectories_per_sample=1,
            lease_s=_FOREVER_S,
            max_steps=setup.steps,
            max_leases=setup.max_leases,
        )
        self._ledger = Ledger(SampleSource([_SAMPLE], epochs=count, shuffle=False), rules)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._work = itertools.cycle(setup.spread)
        self._now = 0.0
        self._servers = [
            ServerModel(f"rollout-{k}", setup.alone_s, setup.shared_s, setup.capacity)
            for k in range(setup.servers)
        ]
        self._asking: dict[int, tuple[float, int]] = {}  # by server, since when and for how many
        self._supply = -1
        self._wants: int | None = 1  # the step whose batch the learner asks for
        self._shard: Shard | None = None
        self._learner_free = 0.0
        self._push_ends = 0.0
        self._waited_s = 0.0
        self._acks: list[
            tuple[float, float, float]
        ] = []  # (time, waited, servers busy), all so far
        self._ages: list[int] = []

    def run(self) -> Outcome:
        self._ledger.join(_LEARNER, Role.LEARNER)
        for server in self._servers:
            self._ledger.join(server.owner, Role.ROLLOUT)
        self._push(0)
        while self._events and len(self._acks) < self._setup.steps:
            self._now, _, act = heapq.heappop(self._events)
            act()
            self._hand_out()
        self._ledger.check()
        assert len(self._acks) == self._setup.steps, "the simulated run stands still"
        return self._outcome()

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

    # ---- rollout ---------------------------------------------------------------------------------
    def _hand_out(self) -> None:
        """Answer the servers' questions for leases, in the order in which they were asked."""
        for number, server in enumerate(self._servers):
            if server.version >= 0 and server.room and number not in self._asking:
                self._asking[number] = (self._now, server.room)
                self._supply = -1  # a new request
        if self._supply == self._ledger.supply:
            return
        while self._supply != self._ledger.supply:
            self._supply = self._ledger.supply
            for number in list(self._asking):
                self._answer(number)

    def _answer(self, number: int) -> None:
        server = self._servers[number]
        since, asked = self._asking[number]
        if self._now - since >= _ASK_AGAIN_S:
            asked = server.room
        request = next(self._numbers).to_bytes(8, "little")
        entries = self._ledger.lease(
            server.owner, request, min(asked, server.room), 0, server.version, self._now
        )
        if not entries:
            return
        del self._asking[number]
        for entry in entries:
            server.start(entry, next(self._work), self._now)
        self._foretell(number)
        if server.room:
            self._asking[number] = (self._now, server.room)
            self._supply = -1

    def _foretell(self, number: int) -> None:
        server = self._servers[number]
        stamp, time = server.stamp, server.next_done()
        if time < _FOREVER_S:
            self._at(time, lambda: self._finish(number, stamp))

    def _finish(self, number: int, stamp: int) -> None:
        server = self._servers[number]
        if server.stamp != stamp:
            return  # something has changed since
        for done in server.take_done(self._now):
            entry = done.entry
            receipt = Receipt(done.oldest_version, server.version, 1, (1,))
            self._ledger.submit(server.owner, entry.group_id, entry.attempt, receipt)
        self._foretell(number)
        self._try_to_take()

    # ---- learner ---------------------------------------------------------------------------------
    def _try_to_take(self) -> None:
        if self._wants is None:
            return
        shard = self._ledger.take(_LEARNER, self._wants)
        if shard is None:
            return
        self._wants, self._shard = None, shard
        begin = max(self._now + self._setup.prepare_s, self._learner_free)
        self._waited_s += begin - self._learner_free
        self._at(begin + self._setup.learner_s, self._end_step)

    def _end_step(self) -> None:
        shard, self._shard = self._shard, None
        assert shard is not None
        for entry in shard.entries:
            assert entry.receipt is not None
            self._ages.append(shard.step - 1 - entry.receipt.oldest_version)
        self._ledger.acknowledge(_LEARNER, shard.step, shard.batch_id, {})
        for server in self._servers:
            server.advance(self._now)
        busy_s = sum(server.busy_s for server in self._servers)
        self._acks.append((self._now, self._waited_s, busy_s))
        for number in range(len(self._servers)):
            self._foretell(number)
        self._learner_free = max(self._now, self._push_ends)  # one push at a time
        if shard.step < self._setup.steps:
            self._push(shard.step)
            self._wants = shard.step + 1
            self._try_to_take()

    def _push(self, version: int) -> None:
        begins = max(self._now, self._push_ends)
        self._push_ends = begins + self._setup.push_s
        self._at(self._push_ends - self._setup.pause_s, self._pause)
        self._at(self._push_ends, lambda: self._serve(version))

    def _pause(self) -> None:
        for server in self._servers:
            server.pause(self._now)

    def _serve(self, version: int) -> None:
        for number, server in enumerate(self._servers):
            server.resume(version, self._now)
            self._ledger.serve(server.owner, 0, version)
            self._foretell(number)

    # ---- figures ---------------------------------------------------------------------------------
    def _outcome(self) -> Outcome:
        slots = self._setup.max_staleness + 1
        first = min(slots + 1, self._setup.steps - 2)
        last = max(first + 1, self._setup.steps - 1 - slots)
        (begin, waited, busy), (end, waited_then, busy_then) = self._acks[first], self._acks[last]
        elapsed_s = max(end - begin, 1e-9)  # where nothing takes any time
        total = elapsed_s * len(self._servers)
        return Outcome(
            step_s=elapsed_s / (last - first),
            learner_idle_share=(waited_then - waited) / elapsed_s,
            rollout_idle_share=1 - (busy_then - busy) / total,
            staleness_mean=fmean(self._ages),
            staleness_max=max(self._ages),
            first_step_s=self._acks[0][0],
            last_step_s=self._acks[-1][0],
        )
