"""Every decision about samples: WAITING -> LEASED -> READY -> TAKEN -> DONE.

A pure state machine: no socket, no clock, no await, no randomness. Time is an argument, in seconds
on any one steady clock. P = groups_per_step, S = max_staleness. The server, the simulator, the
model checker, recovery and replay all run this class: the same calls in the same order give the
same state.

- Order. Groups are issued in the order of the source and keep their place in it for good; step k
  trains the first P groups that no step before it took. A quarantined group gives its place to the
  next one. Groups that come back are leased again before any new one.
- Slots. The group at place i among those that no step has taken may be leased when fewer than
  (S + 1) * P groups are before it, counting those whose step has not been freed. A step is freed
  when it is acknowledged and every live rollout server serves the weights made from it. A group of
  step k is therefore leased only when all servers serve version k - 1 - S or newer, which bounds
  staleness by construction; `lease` and the guards at submit and take check it all the same.
- Leases lapse. Each lease of a group has the next attempt number; only the holder of the current
  one can submit.
- Attempts fail. `broker.ledger.attempts` says which of them count, when a group rests or must be
  tried alone, and when its sample is quarantined; later epochs leave such a sample out.
- The learner's batch is the lease of a step. Each rank pulls its own shard and acknowledges it; the
  step is done when all ranks have. Another life of a rank takes its shard over, and the former
  holder's acknowledgement is fenced; so is one for a batch that was given up and formed anew.
- History. A learner that comes back from a checkpoint of step k rewinds the ledger to it: what was
  trained after k is undone and issued again, every lease ends, and no server counts as serving
  anything until it has acknowledged weights of the new history. So each sample is trained exactly
  once an epoch in the history that survives.
"""

import heapq
from collections.abc import Mapping
from dataclasses import replace

from broker.ledger.accounts import Books
from broker.ledger.attempts import is_hopeless, needs_solitude, note_failure, note_success
from broker.ledger.entry import Entry, Owner, Receipt, Rules, Shard, State
from broker.ledger.groups import Groups
from broker.ledger.quarantine import Quarantine
from broker.ledger.refusal import Refusal
from broker.ledger.servers import Servers
from broker.ledger.steps import Steps
from broker.protocol import Blame, Role, Verdict
from common.source import SampleSource

_GIVEN_BACK = {  # reason in the books for an attempt that was given back
    Blame.SAMPLE: "broken_sample",
    Blame.SUSPECT: "no_answer",
    Blame.NOBODY: "given_back",
}


class Ledger:
    """All samples of a run, and who may do what with them.

    Args:
        source: hands out the groups in their order.
    """

    def __init__(self, source: SampleSource, rules: Rules) -> None:
        self.rules = rules
        self.servers = Servers()
        self.members: dict[Owner, Role] = {}
        self.quarantine = Quarantine()
        self.num_failures = 0  # attempts that came to nothing, whatever the cause
        self.last_failure = ""  # which sample's attempt failed last and why, in words
        self._groups = Groups(source, rules.trajectories_per_sample)
        self.steps = Steps(rules, self._groups, self.servers, self.quarantine)
        self._revision = 0  # grows with every change but those of the steps
        self._num_openings = 0  # grows when slots are freed or groups move up
        self._rests: list[float] = []  # when groups that came back may be leased again: a heap

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision + self.steps.revision

    @property
    def version(self) -> int:
        """The learner's weights: steps acknowledged."""
        return self.steps.version

    @property
    def history(self) -> int:
        """Number of rewinds that have undone something."""
        return self.steps.history

    def amend(
        self, lease_s: float, max_attempts: int, max_steps: int | None, max_leases: int
    ) -> None:
        """Change the rules that may change when a run is resumed."""
        self.rules = self.steps.rules = replace(
            self.rules,
            lease_s=lease_s,
            max_attempts=max_attempts,
            max_steps=max_steps,
            max_leases=max_leases,
        )
        self.steps.is_finished = False
        self._revision += 1
        self._num_openings += 1

    # ---- members ---------------------------------------------------------------------------------
    def join(self, owner: Owner, role: Role) -> None:
        self.members[owner] = role
        if role is Role.ROLLOUT:
            self.servers.add(owner)
        self._revision += 1

    def leave(self, owner: Owner, reason: str, why: str, now: float) -> list[str]:
        """End a life and its leases. Returns their groups.

        Args:
            reason: "member_left" in good order; any other makes suspects of what was under way.
            why: the reason in words.
        """
        if self.members.pop(owner, None) is None:
            return []
        self._revision += 1
        gone = self._groups.held_by(owner)
        for entry in gone:
            if reason == "member_left":
                self._groups.end_lease(entry, reason)
            else:
                self._fail(entry, Blame.SUSPECT, reason, why, now)
        self.servers.remove(owner)
        self.steps.free_slots()
        return [entry.group_id for entry in gone]

    def serve(self, owner: Owner, history: int, version: int) -> None:
        """Note that a rollout server serves `version` from now on.

        Raises:
            Refusal: weights that no acknowledged step made.
        """
        if history != self.history:
            return  # the weights are of a history that was undone
        if version > self.version:
            raise Refusal("bad_request", f"version {version}, but the newest is {self.version}")
        if self.servers.acknowledge(owner, version):
            self._revision += 1
            self.steps.free_slots()

    # ---- rollout side ----------------------------------------------------------------------------
    def lease(
        self,
        owner: Owner,
        request_id: bytes,
        max_groups: int,
        history: int,
        serving_version: int,
        now: float,
    ) -> list[Entry]:
        """Grant at most `max_groups` leases to a server that has `serving_version` or a newer one.

        The same request again gets the leases that it got before, as far as they still hold.

        Raises:
            Refusal: not a member, or one that serves weights that do not exist yet.
        """
        if owner not in self.members:
            raise Refusal("unknown_member", f"{owner[0]} is not a member: say hello first")
        serving = self.servers.version_of(owner)
        if history == self.history:
            serving = max(serving, serving_version)
        if serving > self.version:
            raise Refusal("bad_request", f"serving version {serving}, the newest is {self.version}")
        held = self._groups.held_by(owner)
        before = [entry for entry in held if entry.request_id == request_id]
        if before:
            return before
        leases: list[Entry] = []
        limit = min(max_groups, self.rules.max_leases - len(held))
        is_alone = any(entry.is_alone for entry in held)
        while len(leases) < limit and not is_alone:
            entry = self._next_in_line(serving, now, is_idle=not held and not leases)
            if entry is None:
                break
            is_alone = needs_solitude(entry, self.rules.max_attempts)
            self._groups.grant(entry, owner, request_id, now + self.rules.lease_s, is_alone)
            leases.append(entry)
        self._revision += bool(leases)
        return leases

    @property
    def has_work(self) -> bool:
        """False when no server, however fresh, would get a lease now."""
        return self._may_lease(self.version)

    @property
    def supply(self) -> int:
        """Grows whenever a request for leases might fare better than it did before."""
        return self._num_openings + self.steps.num_openings + self._groups.num_returns

    def leased_to(self, owner: Owner, group_id: str, attempt: int) -> Entry | None:
        """Find the group of a lease; None unless this very lease is in force."""
        entry = self._groups.held.get(owner, {}).get(group_id)
        return entry if entry is not None and entry.attempt == attempt else None

    def is_of_next_step(self, entry: Entry) -> bool:
        return self._groups.index(entry) < self.rules.groups_per_step

    def submit(self, owner: Owner, group_id: str, attempt: int, receipt: Receipt) -> Verdict:
        """Take in a generated group. Sending it twice is harmless, sending it late too.

        Raises:
            Refusal: weights that do not exist yet.
        """
        entry = self._groups.by_id.get(group_id)
        if entry is None or entry.attempt != attempt or entry.state is State.WAITING:
            return Verdict.FENCED
        if entry.state is not State.LEASED:
            return Verdict.DUPLICATE
        if entry.owner != owner:
            return Verdict.FENCED
        self.check_versions(receipt)
        self._revision += 1
        self._groups.receive(entry, receipt)
        self._note_idle(owner, entry)
        note_success(entry)
        if self.steps.is_stale(entry, self.steps.step_of(self._groups.index(entry))):
            self._groups.expire(entry, "stale_at_submit")
            return Verdict.STALE
        return Verdict.ACCEPTED

    def check_versions(self, receipt: Receipt) -> None:
        """Refuse a group of weights that do not exist yet. Raises Refusal."""
        if receipt.newest_version > self.version:
            raise Refusal(
                "bad_group", f"version {receipt.newest_version}, but the newest is {self.version}"
            )

    def give_back(
        self, owner: Owner, group_id: str, attempt: int, blame: Blame, why: str, now: float
    ) -> bool:
        """End a lease without a group. True when that quarantined the sample.

        A lease that is over already, or another's, is left alone.
        """
        entry = self.leased_to(owner, group_id, attempt)
        if entry is None:
            return False
        self._revision += 1
        return self._fail(entry, blame, _GIVEN_BACK[blame], why, now)

    def lapse(self, now: float) -> list[str]:
        """End all leases whose time is over; returns the groups. Groups that have rested wake."""
        lapsed: list[str] = []
        while (deadline := self._next_lapse()) is not None and deadline <= now:
            entry = next(iter(self._groups.leased.values()))
            why = f"no group came within broker.lease_s = {self.rules.lease_s:g} s"
            self._fail(entry, Blame.SUSPECT, "lease_lapsed", why, now)
            lapsed.append(entry.group_id)
        self._revision += bool(lapsed)
        while self._rests and self._rests[0] <= now:
            heapq.heappop(self._rests)
            self._num_openings += 1
        return lapsed

    def next_deadline(self) -> float | None:
        """Time at which the next lease lapses, or the next group has rested enough."""
        deadlines = (self._next_lapse(), self._rests[0] if self._rests else None)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def lose(self, group_id: str, attempt: int) -> bool:
        """Issue a submitted group again whose trajectories turned out to be damaged.

        If its step was taken, the step is given back: the ranks that hold it are fenced.
        """
        entry = self._groups.by_id.get(group_id)
        if entry is None or entry.attempt != attempt:
            return False
        if entry.state is State.TAKEN:
            self.steps.untake()
        if entry.state is not State.READY:
            return False
        self._revision += 1
        self._groups.expire(entry, "damaged")
        return True

    # ---- learner side (what these do, and their refusals, is told in `Steps`) --------------------
    def take(self, owner: Owner, step: int, rank: int = 0, world_size: int = 1) -> Shard | None:
        return self.steps.take(owner, step, rank, world_size)

    def acknowledge(
        self, owner: Owner, step: int, taking: int, refused: Mapping[str, str], rank: int = 0
    ) -> bool:
        return self.steps.acknowledge(owner, step, taking, refused, rank)

    def commit(self, step: int, oldest: int) -> None:
        self.steps.commit(step, oldest)

    def rewind(self, owner: Owner, step: int) -> int:
        return self.steps.rewind(owner, step)

    def finish(self) -> None:
        self.steps.finish()

    def doubt(self) -> None:
        self.steps.doubt()

    # ---- accounts --------------------------------------------------------------------------------
    @property
    def books(self) -> Books:
        return self._groups.books

    @property
    def slots_used(self) -> int:
        return min(self.rules.slots, self.steps.num_ahead + len(self._groups.pending))

    def kept(self) -> list[Entry]:
        """Groups whose trajectories must be kept: submitted, and not trained for good."""
        done = [entry for step in self.steps.done for entry in step.entries]
        return [*done, *self.needed()]

    def needed(self) -> list[Entry]:
        """Groups that the learner is still to get."""
        taken = self.steps.current.entries if self.steps.current else []
        return [*taken, *(e for e in self._groups.pending if e.state is State.READY)]

    def counts(self) -> dict[str, int]:
        """Return the books' figures, and what became of the source's groups."""
        return {
            "groups_total": self._groups.num_total,
            "groups_never_issued": self._groups.num_new,
            "groups_to_issue_again": len(self._groups.returned),
            "slots_used": self.slots_used,
            **self.books.counts(),
        }

    def check(self) -> None:
        """Check the invariants that cost little, after every transition. Raises AssertionError."""
        self._groups.check(len(self.steps.current.entries) if self.steps.current else 0)
        num_busy = self._groups.num_ready + len(self._groups.leased)
        assert self.steps.num_ahead + num_busy <= self.rules.slots, "more groups than slots"
        assert self.steps.freed <= self.version, "slots of a step that is not trained are free"
        assert self.steps.max_staleness_seen <= self.rules.max_staleness, "too stale"

    @property
    def num_groups(self) -> int:
        """Number of the source's groups: samples times epochs."""
        return self._groups.num_total

    @property
    def retried(self) -> list[Entry]:
        """Groups that have failed, and whose next attempt is under way or to come."""
        is_open = (State.WAITING, State.LEASED)
        return [e for e in self._groups.pending if e.returns and e.state in is_open]

    # ---- inside ----------------------------------------------------------------------------------
    def _may_lease(self, serving_version: int) -> bool:
        """Tell whether the first group in line may go to a server that serves this version."""
        groups = self._groups
        if not groups.returned and not groups.num_new:
            return False
        index = groups.index(groups.returned[0]) if groups.returned else len(groups.pending)
        return self._is_open(index, serving_version)

    def _next_in_line(self, serving_version: int, now: float, *, is_idle: bool) -> Entry | None:
        """Take the first group that a server may have now out of the line, to be granted."""
        groups = self._groups
        for entry in groups.returned:
            is_barred = needs_solitude(entry, self.rules.max_attempts) and not is_idle
            if entry.rests_until > now or is_barred:
                continue  # groups behind it need not wait
            if not self._is_open(groups.index(entry), serving_version):
                return None
            groups.reissue(entry)
            return entry
        self._skip_quarantined()
        if not groups.num_new or not self._is_open(len(groups.pending), serving_version):
            return None
        return groups.issue_next()

    def _skip_quarantined(self) -> None:
        """Pass over groups whose samples were given up in an earlier epoch."""
        if not self.quarantine.num_samples:
            return
        while self._groups.num_new and self._groups.next_sample_id() in self.quarantine:
            self._groups.skip_next()
            self._num_openings += 1
            self._revision += 1

    def _is_open(self, index: int, serving_version: int) -> bool:
        """Tell whether the group at `index` of the pending ones may be leased for this version."""
        if serving_version < 0 or self.steps.num_ahead + index >= self.rules.slots:
            return False
        step = self.steps.step_of(index)
        is_fresh = step - 1 - serving_version <= self.rules.max_staleness
        return is_fresh and step <= self.steps.last_step

    def _fail(self, entry: Entry, blame: Blame, reason: str, why: str, now: float) -> bool:
        """End a lease without a group. True when that quarantined the sample."""
        if blame is Blame.SUSPECT and entry.is_alone:
            why += " (nothing else was under way on its server)"
        note_failure(entry, blame, why, now, self.rules.first_rest_s)
        self.num_failures += 1
        self.last_failure = f"sample {entry.assignment.sample.sample_id}: {why}"
        if not is_hopeless(entry, blame, self.rules.max_attempts):
            self._groups.end_lease(entry, reason)
            if entry.rests_until > now:
                heapq.heappush(self._rests, entry.rests_until)
            return False
        self._groups.quarantine(entry)
        self.quarantine.give_up(entry, "rollout", entry.failures, why)
        self._num_openings += 1
        return True

    def _next_lapse(self) -> float | None:
        """Deadline of the first lease granted: all run equally long, so it lapses first."""
        for entry in self._groups.leased.values():
            return entry.deadline
        return None

    def _note_idle(self, owner: Owner, submitted: Entry) -> None:
        """Note that a server has become idle, which a suspect may wait for."""
        if owner in self._groups.held:
            return
        limit = self.rules.max_attempts
        suspects = (entry for entry in self._groups.returned if needs_solitude(entry, limit))
        self._num_openings += submitted.is_alone or any(suspects)
