"""A ledger and the reference side by side, and everything that can happen to them."""

from broker.entry import Rules
from broker.ledger import Ledger
from common.types import GroupLease
from tests.broker.reference import PENDING, Reference
from tests.broker.support import make_group, make_source

SERVERS = ("rollout-0", "rollout-1")
LEARNER = ("learner-0", 1)


class World:
    """Each method is one event; it asserts that ledger and reference decide the same."""

    def __init__(self, num_groups: int, rules: Rules) -> None:
        source = make_source(num_groups)
        self.index_of = {source.at(i).group_id: i for i in range(num_groups)}
        self.ledger = Ledger(source, rules)
        self.reference = Reference(num_groups, rules)
        self.now = 0.0
        self.serving = dict.fromkeys(SERVERS, 0)
        self.granted: list[tuple[str, GroupLease]] = []  # every lease there ever was
        self.trained: list[int] = []

    # ---- rollout servers -------------------------------------------------------------------------
    def lease(self, server: str, count: int, lag: int = 0) -> None:
        serving = max(0, self.serving[server] - lag)
        leases = self.ledger.lease((server, 1), count, serving, self.now)
        expected = self.reference.lease(server, count, serving, self.now)
        assert [(self.index_of[x.group_id], x.attempt) for x in leases] == expected
        self.granted += [(server, granted) for granted in leases]

    def submit(self, granted: GroupLease, server: str, lag: int = 0) -> None:
        oldest = max(0, self.serving[server] - lag)
        group = make_group(granted, oldest)
        verdict = self.ledger.submit((server, 1), group)
        index = self.index_of[group.group_id]
        tokens = group.num_response_tokens
        assert verdict == self.reference.submit(server, index, group.attempt, oldest, tokens)

    def give_back(self, granted: GroupLease, server: str, is_broken: bool) -> None:
        self.ledger.give_back((server, 1), granted.group_id, granted.attempt, is_broken)
        index = self.index_of[granted.group_id]
        self.reference.give_back(server, index, granted.attempt, is_broken)

    def lose(self, server: str) -> None:
        self.ledger.release((server, 1), "member_lost")
        self.reference.release(server)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.lapse(self.now)
        self.reference.lapse(self.now)

    def update_weights(self, server: str) -> None:
        self.serving[server] = self.ledger.version
        floor = min(self.serving.values())
        self.ledger.free_slots(floor)
        self.reference.free(floor)

    # ---- the learner -----------------------------------------------------------------------------
    def take(self) -> None:
        batch = self.ledger.take(LEARNER, self.ledger.version + 1)
        expected = self.reference.take()
        if expected is None:
            assert batch is None
            return
        assert batch is not None and batch.exhausted == (expected == [])
        assert [self.index_of[group.group_id] for group in batch.groups] == expected
        for group in batch.groups:
            assert batch.step - 1 - group.oldest_version <= self.ledger.rules.max_staleness
            assert len(group.trajectories) == self.ledger.rules.trajectories_per_sample

    def acknowledge(self, refuses: bool) -> None:
        """Train the step that is taken, all of it or all but its first group."""
        taken = self.reference.with_status("taken")
        if not taken:
            return
        group_ids = {index: group_id for group_id, index in self.index_of.items()}
        refused = taken[:1] if refuses else []
        step = self.ledger.version + 1
        self.ledger.acknowledge(LEARNER, step, {group_ids[index]: "?" for index in refused})
        self.reference.acknowledge(set(refused))
        self.trained += taken[len(refused) :]

    def run_well(self) -> bool:
        """One step of healthy servers and a healthy learner; False if no step came of it."""
        for server in SERVERS:
            self.update_weights(server)
        first = len(self.granted)
        self.lease(SERVERS[0], 99)
        for server, granted in self.granted[first:]:
            self.submit(granted, server)
        self.take()
        is_trained = bool(self.reference.with_status("taken"))
        self.acknowledge(refuses=False)
        return is_trained

    # ---- what always holds -----------------------------------------------------------------------
    def check(self) -> None:
        self.ledger.check()
        counts, reference = self.ledger.counts(), self.reference
        num_taken = len(reference.with_status("taken"))
        assert counts["samples_in_flight"] == len(reference.with_status("leased")) + num_taken
        assert counts["samples_waiting"] == len(reference.with_status("ready"))
        assert counts["samples_trained"] == len(reference.with_status("trained"))
        gone = reference.with_status("refused", "quarantined")
        assert counts["samples_quarantined"] == len(gone)
        assert counts["samples_expired"] == reference.lost.total()
        assert +self.ledger.books.samples.expired_by_reason == +reference.lost
        assert counts["tokens_expired"] == reference.lost_tokens
        live = reference.with_status("ready", "taken")
        tokens = sum(reference.rows[index].tokens for index in live)
        assert counts["tokens_waiting"] + counts["tokens_in_flight"] == tokens
        assert counts["groups_to_issue_again"] == len(reference.with_status("waiting"))
        assert counts["groups_never_issued"] == len(reference.with_status("new"))
        assert counts["slots_used"] == sum(row.has_slot for row in reference.rows)
        assert self.trained == sorted(set(self.trained)), "not once each, or not in order"

    def end(self) -> None:
        """Whatever has happened, once faults stop the run ends and has lost nothing."""
        for server in SERVERS:
            self.lose(server)
        for _ in range(self.reference.num_groups + 1):
            if not self.run_well():
                break
        else:
            raise AssertionError("the run does not end")
        self.check()
        left = self.reference.with_status("new", *PENDING)
        assert len(left) < self.ledger.rules.groups_per_step
        gone = self.reference.with_status("quarantined", "refused")
        everything = set(range(self.reference.num_groups))
        assert set(self.trained) == everything - set(gone) - set(left)
