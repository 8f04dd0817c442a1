"""The ledger against the reference under arbitrary events: shrinkable, and long random walks."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.protocol import Blame
from tests.broker.ledger.support import walk
from tests.broker.support import make_rules
from tests.broker.world import SERVERS, World

servers = st.sampled_from(SERVERS)
nths = st.integers(1, 6)  # the nth last lease there was: also those long over


class LedgerMachine(RuleBasedStateMachine):
    @initialize(
        num_groups=st.integers(1, 12),
        groups_per_step=st.integers(1, 3),
        staleness=st.integers(0, 2),
        max_attempts=st.integers(1, 3),
        ranks=st.integers(1, 2),
    )
    def start(
        self,
        num_groups: int,
        groups_per_step: int,
        staleness: int,
        max_attempts: int,
        ranks: int,
    ) -> None:
        rules = make_rules(groups_per_step, staleness, max_attempts=max_attempts)
        self.world = World(num_groups, rules, min(ranks, groups_per_step))

    @rule(server=servers, count=st.integers(1, 4), lag=st.integers(0, 2))
    def lease(self, server: str, count: int, lag: int) -> None:
        self.world.lease(server, count, lag)

    @rule(nth=nths, server=st.none() | servers, lag=st.integers(0, 2))
    def submit(self, nth: int, server: str | None, lag: int) -> None:
        if nth <= len(self.world.granted):
            holder, granted = self.world.granted[-nth]
            self.world.submit(granted, server or holder, lag)

    @rule(nth=nths, blame=st.sampled_from(Blame))
    def give_back(self, nth: int, blame: Blame) -> None:
        if nth <= len(self.world.granted):
            holder, granted = self.world.granted[-nth]
            self.world.give_back(granted, holder, blame)

    @rule(
        server=servers,
        comes_back=st.booleans(),
        reason=st.sampled_from(["member_lost", "engine_lost", "member_left"]),
    )
    def lose(self, server: str, comes_back: bool, reason: str) -> None:
        self.world.lose(server, reason)
        if comes_back:
            self.world.join(server)

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(server=servers, lag=st.integers(0, 2))
    def update_weights(self, server: str, lag: int) -> None:
        self.world.update_weights(server, lag)

    @rule()
    def checkpoint(self) -> None:
        self.world.checkpoint()

    @rule(nth=st.integers(1, 2))
    def restart_learner(self, nth: int) -> None:
        self.world.restart_learner(nth)

    @rule()
    def take(self) -> None:
        self.world.take()

    @rule(refuses=st.booleans())
    def acknowledge(self, refuses: bool) -> None:
        self.world.acknowledge(refuses)

    @rule()
    def run_well(self) -> None:
        self.world.run_well()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()


LedgerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, derandomize=True
)
TestLedgerMachine = LedgerMachine.TestCase


@pytest.mark.parametrize("block", range(4))
def test_random_walks(block: int) -> None:
    worlds = [walk(seed, num_events=120) for seed in range(100 * block, 100 * block + 100)]
    steps = sum(world.ledger.version for world in worlds)
    reasons = {reason for world in worlds for reason in world.reference.lost}
    assert steps > 400, "the walks no longer get far"
    assert reasons == {
        "broken_sample", "no_answer", "given_back", "lease_lapsed", "member_lost", "rewound",
        "stale_at_submit",
    }  # fmt: skip
