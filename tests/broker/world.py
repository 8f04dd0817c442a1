"""A ledger and the reference side by side, and everything that can happen to them."""

from broker.ledger.entry import Rules
from broker.ledger.ledger import Ledger
from broker.protocol import Blame, Role
from common.types import GroupLease
from tests.broker.reference import DONE, PENDING, Reference
from tests.broker.support import lease_all, make_group, make_source, submit_group

SERVERS = ("rollout-0", "rollout-1")


class World:
    """Each method is one event; it asserts that ledger and reference decide the same.

    Args:
        ranks: of the learner.
    """

    def __init__(self, num_groups: int, rules: Rules, ranks: int = 1) -> None:
        source = make_source(num_groups)
        self.index_of = {source.at(i).group_id: i for i in range(num_groups)}
        self.ledger = Ledger(source, rules)
        self.reference = Reference(num_groups, rules)
        self.ranks = ranks
        self.now = 0.0
        self.life = 1  # of the learner
        self.granted: list[tuple[str, GroupLease]] = []  # every lease there ever was
        self.weights: list[list[int]] = []  # the learner's: groups trained, by step
        self.checkpoints = [0]  # steps, oldest first; two are kept
        for server in SERVERS:
            self.join(server)

    # ---- rollout servers -------------------------------------------------------------------------
    def join(self, server: str) -> None:
        self.ledger.join((server, 1), Role.ROLLOUT)
        self.reference.serving.setdefault(server, -1)

    def lease(self, server: str, count: int, lag: int = 0) -> None:
        if server not in self.reference.serving:
            return  # the broker refuses strangers
        serving = max(0, self.served(server) - lag)
        leases = lease_all(self.ledger, (server, 1), count, serving, self.now)
        expected = self.reference.lease(server, count, serving, self.now)
        assert [(self.index_of[x.group_id], x.attempt) for x in leases] == expected
        lonely = [x for x in self.reference.rows if x.status == "leased" and x.is_alone]
        assert all(row.is_alone == row.is_suspect_to_the_last(self.ledger.rules) for row in lonely)
        for row in lonely:
            owned = [
                x for x in self.reference.rows if x.status == "leased" and x.owner == row.owner
            ]
            assert owned == [row], "not alone on its server"
        self.granted += [(server, granted) for granted in leases]

    def served(self, server: str) -> int:
        return max(0, self.reference.serving.get(server, 0))

    def submit(self, granted: GroupLease, server: str, lag: int = 0) -> None:
        oldest = max(0, min(self.served(server), self.reference.version) - lag)
        group = make_group(granted, oldest)
        verdict = submit_group(self.ledger, (server, 1), group)
        index = self.index_of[group.group_id]
        tokens = group.responses.num_tokens
        assert verdict == self.reference.submit(server, index, group.attempt, oldest, tokens)

    def give_back(self, granted: GroupLease, server: str, blame: Blame) -> None:
        group_id, attempt = granted.group_id, granted.attempt
        self.ledger.give_back((server, 1), group_id, attempt, blame, "?", self.now)
        self.reference.give_back(server, self.index_of[group_id], attempt, blame)

    def lose(self, server: str, reason: str = "member_lost") -> None:
        self.ledger.leave((server, 1), reason, "?", self.now)
        self.reference.leave(server, reason)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.lapse(self.now)
        self.reference.lapse(self.now)

    def update_weights(self, server: str, lag: int = 0) -> None:
        version = max(0, self.ledger.version - lag)
        self.ledger.serve((server, 1), self.ledger.history, version)
        self.reference.serve(server, version)

    # ---- the learner -----------------------------------------------------------------------------
    def owner(self, rank: int) -> tuple[str, int]:
        return (f"learner-{rank}", self.life)

    def take(self) -> None:
        step = self.ledger.version + 1
        shards = [self.ledger.take(self.owner(r), step, r, self.ranks) for r in range(self.ranks)]
        expected = self.reference.take()
        if expected is None:
            assert shards == [None] * self.ranks
            return
        assert all(shard is not None and shard.exhausted == (expected == []) for shard in shards)
        entries = [entry for shard in shards if shard is not None for entry in shard.entries]
        assert sorted(self.index_of[entry.group_id] for entry in entries) == expected
        for entry in entries:
            assert entry.receipt is not None
            assert step - 1 - entry.receipt.oldest_version <= self.ledger.rules.max_staleness
            assert len(entry.receipt.lengths) == self.ledger.rules.trajectories_per_sample

    def acknowledge(self, refuses: bool) -> None:
        """Train the step that is taken, all of it or all but its first group."""
        taken = self.reference.with_status("taken")
        if not taken:
            return
        group_ids = {index: group_id for group_id, index in self.index_of.items()}
        refused = {group_ids[index]: "?" for index in (taken[:1] if refuses else [])}
        step = self.ledger.version + 1
        for rank in range(self.ranks):
            shard = self.ledger.take(self.owner(rank), step, rank, self.ranks)
            assert shard is not None
            mine = {e.group_id: "?" for e in shard.entries if e.group_id in refused}
            is_done = self.ledger.acknowledge(self.owner(rank), step, shard.batch_id, mine, rank)
            assert is_done == (rank == self.ranks - 1)
        self.reference.acknowledge(set(taken[:1] if refuses else []))
        self.weights.append(taken[len(refused) :])

    def checkpoint(self) -> None:
        self.ledger.commit(self.ledger.version, self.checkpoints[0])
        self.reference.pruned = max(self.reference.pruned, self.checkpoints[0])
        self.checkpoints = [*self.checkpoints, self.ledger.version][-2:]

    def restart_learner(self, nth: int) -> None:
        """From the nth last checkpoint."""
        step = self.checkpoints[-min(nth, len(self.checkpoints))]
        self.checkpoints = [kept for kept in self.checkpoints if kept <= step]
        self.life += 1
        history = self.ledger.rewind(self.owner(0), step)
        self.reference.rewind(step)
        assert history == self.reference.history
        del self.weights[step:]

    def run_well(self) -> bool:
        """One step of healthy servers and a healthy learner; False if no step came of it."""
        for server in SERVERS:
            self.update_weights(server)
        while True:  # suspects come one by one
            first = len(self.granted)
            self.lease(SERVERS[0], 99)
            if first == len(self.granted):
                break
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
        num_pending = len(reference.with_status(*PENDING))
        assert counts["slots_used"] == min(reference.rules.slots, reference.ahead() + num_pending)
        assert self.ledger.steps.freed == reference.freed and len(self.weights) == reference.version
        trained = self.trained()
        assert trained == sorted(set(trained)), "not once each, or not in order"
        assert trained == reference.with_status("trained")

    def trained(self) -> list[int]:
        """What the learner's weights are made of."""
        return [index for step in self.weights for index in step]

    def end(self) -> None:
        """Whatever has happened, once faults stop the run ends and has lost nothing."""
        for server in SERVERS:
            self.lose(server)
            self.join(server)
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
        assert set(self.trained()) == everything - set(gone) - set(left)
        assert len(self.reference.with_status(*DONE)) == counts_of(self)


def counts_of(world: World) -> int:
    """Groups that went through a step of the history that survives."""
    return world.ledger.version * world.ledger.rules.groups_per_step
