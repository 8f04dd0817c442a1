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
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from broker.ledger.accounts import Books
from broker.ledger.attempts import is_hopeless, needs_solitude, note_failure, note_success
from broker.ledger.entry import Entry, Owner, Receipt, Rules, Shard, State, Step
from broker.ledger.groups import Groups
from broker.ledger.quarantine import Quarantine, Quarantined
from broker.ledger.refusal import Refusal
from broker.ledger.servers import Servers
from broker.ledger.shards import split_by_load
from broker.protocol import Blame, Role, Verdict
from common.source import SampleSource

_ATTEMPT_BITS = 20  # a group is not tried a million times between two power cuts
_GIVEN_BACK = {  # how an attempt that was given back stands in the books
    Blame.SAMPLE: "broken_sample",
    Blame.SUSPECT: "no_answer",
    Blame.NOBODY: "given_back",
}


class Ledger:
    def __init__(self, source: SampleSource, rules: Rules) -> None:
        self.rules = rules
        self.servers = Servers()
        self.members: dict[Owner, Role] = {}
        self.version = 0  # the learner's: steps acknowledged
        self.history = 0  # rewinds that undid something
        self.freed = 0  # newest step whose slots are free
        self.committed = 0  # newest step that a checkpoint holds
        self.pruned = 0  # no rewind goes behind this step
        self.is_finished = False  # the last step is trained, and the learner has said so
        self.max_staleness_seen = 0  # of trained trajectories, in steps
        self.quarantine = Quarantine()
        self.num_failures = 0  # attempts that came to nothing, whoever was to blame
        self.last_failure = ""  # for people
        self.revision = 0  # grows with every change
        self._groups = Groups(source, rules.trajectories_per_sample)
        self._step: Step | None = None  # the learner's
        self._done: deque[Step] = deque()  # acknowledged, consecutive, not pruned yet
        self._num_unfreed = 0  # groups of acknowledged steps that hold slots
        self._num_takings = 0  # batches formed
        self._num_openings = 0  # grows when slots are freed or groups move up
        self._rests: list[float] = []  # when groups that came back may be leased again: a heap
        self._blocker: Entry | None = None  # why the next batch was not complete when last asked
        self._resumed_by: Owner | None = None  # the life of rank 0 that may take batches
        self._is_doubtful = False  # nobody may, until another life says where it resumes

    def amend(
        self, lease_s: float, max_attempts: int, max_steps: int | None, max_leases: int
    ) -> None:
        """The rules that may change when a run is resumed."""
        self.rules = replace(
            self.rules,
            lease_s=lease_s,
            max_attempts=max_attempts,
            max_steps=max_steps,
            max_leases=max_leases,
        )
        self.is_finished = False
        self.revision += 1
        self._num_openings += 1

    # ---- members ---------------------------------------------------------------------------------
    def join(self, owner: Owner, role: Role) -> None:
        self.members[owner] = role
        if role is Role.ROLLOUT:
            self.servers.add(owner)
        self.revision += 1

    def leave(self, owner: Owner, reason: str, why: str, now: float) -> list[str]:
        """A life is over: its leases end. Returns their groups.

        Args:
            reason: "member_left" in good order; any other makes suspects of what was under way.
            why: the same for people.
        """
        if self.members.pop(owner, None) is None:
            return []
        self.revision += 1
        gone = self._groups.held_by(owner)
        for entry in gone:
            if reason == "member_left":
                self._groups.end_lease(entry, reason)
            else:
                self._fail(entry, Blame.SUSPECT, reason, why, now)
        self.servers.remove(owner)
        self._free_slots()
        return [entry.group_id for entry in gone]

    def serve(self, owner: Owner, history: int, version: int) -> None:
        """A rollout server serves `version` from now on.

        Raises:
            Refusal: weights that no acknowledged step made.
        """
        if history != self.history:
            return  # of a history that was undone
        if version > self.version:
            raise Refusal("bad_request", f"version {version}, but the newest is {self.version}")
        if self.servers.acknowledge(owner, version):
            self.revision += 1
            self._free_slots()

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
        """Up to `max_groups` leases for a server that generates with `serving_version` or newer.

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
        self.revision += bool(leases)
        return leases

    @property
    def has_work(self) -> bool:
        """False when no server, however fresh, would get a lease now."""
        return self._may_lease(self.version)

    @property
    def supply(self) -> int:
        """Grows whenever a request for leases might fare better than it did before."""
        return self._num_openings + self._groups.num_returns

    def leased_to(self, owner: Owner, group_id: str, attempt: int) -> Entry | None:
        """The group, if this very lease is in force."""
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
        self.revision += 1
        self._groups.receive(entry, receipt)
        self._note_idle(owner, entry)
        note_success(entry)
        if self._is_stale(entry, self._step_of(self._groups.index(entry))):
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
        self.revision += 1
        return self._fail(entry, blame, _GIVEN_BACK[blame], why, now)

    def lapse(self, now: float) -> list[str]:
        """End all leases whose time is over; returns the groups. Groups that have rested wake."""
        lapsed: list[str] = []
        while (deadline := self._next_lapse()) is not None and deadline <= now:
            entry = next(iter(self._groups.leased.values()))
            why = f"no group came within broker.lease_s = {self.rules.lease_s:g} s"
            self._fail(entry, Blame.SUSPECT, "lease_lapsed", why, now)
            lapsed.append(entry.group_id)
        self.revision += bool(lapsed)
        while self._rests and self._rests[0] <= now:
            heapq.heappop(self._rests)
            self._num_openings += 1
        return lapsed

    def next_deadline(self) -> float | None:
        """When the next lease lapses, or the next group has rested enough."""
        deadlines = (self._next_lapse(), self._rests[0] if self._rests else None)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def lose(self, group_id: str, attempt: int) -> bool:
        """The trajectories of a submitted group turned out to be damaged: it is issued again.

        If its step was taken, the step is no longer: whoever holds it is fenced.
        """
        entry = self._groups.by_id.get(group_id)
        if entry is None or entry.attempt != attempt:
            return False
        if entry.state is State.TAKEN:
            self._untake()
        if entry.state is not State.READY:
            return False
        self.revision += 1
        self._groups.expire(entry, "damaged")
        return True

    # ---- learner side ----------------------------------------------------------------------------
    def take(self, owner: Owner, step: int, rank: int = 0, world_size: int = 1) -> Shard | None:
        """One rank's share of the next step, in order; None until all its groups are there.

        Raises:
            Refusal: not the step after the last acknowledged one; another world size than that of
                the rank that took it first; a new life of rank 0 that has not said where it
                resumes.
        """
        self._check_learner(owner, rank, world_size)
        if step != self.version + 1:
            raise Refusal("bad_step", f"step {step} taken, but {self.version} are acknowledged")
        if self._step is None:
            if step > self.last_step:
                return Shard(step, (), exhausted=True)
            if not self._is_batch_complete(step):
                return None
            self._begin_step(step, world_size)
        assert self._step is not None
        if len(self._step.shards) != world_size:
            raise Refusal(
                "bad_request",
                f"step {step} is split over {len(self._step.shards)} ranks, not {world_size}",
            )
        if self._step.holders.get(rank) != owner:
            self._step.holders[rank] = owner
            self._step.acknowledged.discard(rank)
            self.revision += 1
        return Shard(step, self._step.shard(rank), self._step.taking)

    def acknowledge(
        self, owner: Owner, step: int, taking: int, refused: Mapping[str, str], rank: int = 0
    ) -> bool:
        """A rank has trained step `step` on its shard but for the `refused` groups (quarantined).

        True when all ranks have: then the step is done. Refused groups keep their slots until the
        step's are freed: giving a slot away early would let a group of a later step start on
        weights that are too old for it.

        Raises:
            Refusal: not the holder of that shard, or a group that is not in it.
        """
        if step <= self.version and self._done and self._done[-1].holders.get(rank) == owner:
            return True  # asked again
        if self._step is None or self._step.number != step:
            raise Refusal("bad_step", f"step {step} is not taken; {self.version} are acknowledged")
        if self._step.holders.get(rank) != owner:
            raise Refusal("fenced", f"another learner has taken step {step} since")
        if self._step.taking != taking:
            raise Refusal("fenced", f"step {step} has been taken anew, with other groups")
        mine = {entry.group_id for entry in self._step.shard(rank)}
        if strangers := refused.keys() - mine:
            raise Refusal("bad_request", f"not in step {step}: {', '.join(sorted(strangers))}")
        if rank not in self._step.acknowledged:
            self.revision += 1
            self._step.acknowledged.add(rank)
            self._step.refused |= refused
        if len(self._step.acknowledged) < len(self._step.shards):
            return False
        self._finish_step(self._step)
        return True

    def commit(self, step: int, oldest: int) -> None:
        """A checkpoint of `step` is about to exist; `oldest` is the oldest one that will be kept.

        Steps up to `oldest` can no longer be undone, and are forgotten once their slots are free.

        Raises:
            Refusal: a step that is not acknowledged.
        """
        if step > self.version or oldest > step:
            raise Refusal(
                "bad_step", f"checkpoint of step {step}, but {self.version} are acknowledged"
            )
        self.revision += 1
        self.committed = step
        self.pruned = max(self.pruned, oldest)
        self._prune()

    def rewind(self, owner: Owner, step: int) -> int:
        """A new learner starts with the weights of step `step`. Returns the history it is in.

        Raises:
            Refusal: a step that never was, or one that can no longer be restored.
        """
        if owner == self._resumed_by and not self._is_doubtful:
            return self.history  # asked again
        if owner == self._resumed_by:
            raise Refusal("fenced", "the broker's machine lost power: this learner must restart")
        if step > self.version:
            raise Refusal(
                "bad_step",
                f"the learner resumes at step {step}, but only {self.version} are acknowledged "
                "here. Fix: start the broker on the run folder that the checkpoint is from",
            )
        if step < self.pruned:
            raise Refusal(
                "bad_step",
                f"the learner resumes at step {step}, but steps up to {self.pruned} can no longer "
                f"be undone. Fix: resume from a checkpoint of step {self.pruned} or later",
            )
        self.revision += 1
        self._resumed_by = owner
        self._is_doubtful = self.is_finished = False
        self._untake()
        if step < self.version:
            self._undo_since(step)
        return self.history

    def finish(self) -> None:
        """The learner has ended the run; if that was its last step, a restart changes nothing."""
        if not self.is_finished and self.version >= self.last_step:
            self.is_finished = True
            self.revision += 1

    def doubt(self) -> None:
        """The machine lost power: what was acknowledged last may be forgotten here.

        Servers and learner may have gone on from there, so a new history begins: no server counts
        as serving anything, and another life of the learner must say where it resumes. Leases may
        be forgotten too, so attempts go on from a number that none of them can have reached.
        """
        self.revision += 1
        self.history += 1
        self._groups.first_attempt = self.history << _ATTEMPT_BITS
        self._untake()
        self._end_all_leases("power_lost")
        self._is_doubtful = True

    @property
    def total_steps(self) -> int:
        all_steps = self._groups.num_total // self.rules.groups_per_step
        return min(all_steps, self.rules.max_steps or all_steps)

    @property
    def last_step(self) -> int:
        """The last step for which there can be groups, quarantined ones left out."""
        left = len(self._groups.pending) + self._groups.num_new
        return min(self.total_steps, self._taken_step + left // self.rules.groups_per_step)

    # ---- accounts --------------------------------------------------------------------------------
    @property
    def books(self) -> Books:
        return self._groups.books

    @property
    def slots_used(self) -> int:
        return min(self.rules.slots, self._num_ahead + len(self._groups.pending))

    def kept(self) -> list[Entry]:
        """Groups whose trajectories must be kept: submitted, and not trained for good."""
        done = [entry for step in self._done for entry in step.entries]
        return [*done, *self.needed()]

    def needed(self) -> list[Entry]:
        """Groups that the learner is still to get."""
        taken = self._step.entries if self._step else []
        return [*taken, *(e for e in self._groups.pending if e.state is State.READY)]

    def counts(self) -> dict[str, int]:
        """The books, and what became of the source's groups."""
        return {
            "groups_total": self._groups.num_total,
            "groups_never_issued": self._groups.num_new,
            "groups_to_issue_again": len(self._groups.returned),
            "slots_used": self.slots_used,
            **self.books.counts(),
        }

    def check(self) -> None:
        """The invariants that cost little; raises AssertionError. Run after every transition."""
        self._groups.check(len(self._step.entries) if self._step else 0)
        num_busy = self._groups.num_ready + len(self._groups.leased)
        assert self._num_ahead + num_busy <= self.rules.slots, "more groups than slots"
        assert self.freed <= self.version and self.max_staleness_seen <= self.rules.max_staleness

    @property
    def num_groups(self) -> int:
        """Groups of the source: samples times epochs."""
        return self._groups.num_total

    @property
    def left_over(self) -> int:
        """Groups that no step will train because there are too few for one more."""
        if self.last_step == self.rules.max_steps:
            return 0  # it is the configuration that leaves them out
        left = len(self._groups.pending) + self._groups.num_new
        return left - (self.last_step - self._taken_step) * self.rules.groups_per_step

    @property
    def retried(self) -> list[Entry]:
        """Groups that have failed, and whose next attempt is under way or to come."""
        is_open = (State.WAITING, State.LEASED)
        return [e for e in self._groups.pending if e.returns and e.state in is_open]

    # ---- inside ----------------------------------------------------------------------------------
    @property
    def _taken_step(self) -> int:
        return self.version + (self._step is not None)

    @property
    def _num_ahead(self) -> int:
        """Groups that hold slots before any pending one."""
        return self._num_unfreed + (len(self._step.entries) if self._step else 0)

    def _step_of(self, index: int) -> int:
        """The step that will train the group at `index` of the pending ones."""
        return self._taken_step + 1 + index // self.rules.groups_per_step

    def _is_stale(self, entry: Entry, step: int) -> bool:
        assert entry.receipt is not None
        return step - 1 - entry.receipt.oldest_version > self.rules.max_staleness

    def _may_lease(self, serving_version: int) -> bool:
        """Whether the first group in line may go to a server that serves this version."""
        groups = self._groups
        if not groups.returned and not groups.num_new:
            return False
        index = groups.index(groups.returned[0]) if groups.returned else len(groups.pending)
        return self._is_open(index, serving_version)

    def _next_in_line(self, serving_version: int, now: float, *, is_idle: bool) -> Entry | None:
        """The first group that a server may have now; out of line, to be granted."""
        groups = self._groups
        for entry in groups.returned:
            is_barred = needs_solitude(entry, self.rules.max_attempts) and not is_idle
            if entry.rests_until > now or is_barred:
                continue  # those behind it need not wait
            if not self._is_open(groups.index(entry), serving_version):
                return None
            groups.reissue(entry)
            return entry
        self._skip_quarantined()
        if not groups.num_new or not self._is_open(len(groups.pending), serving_version):
            return None
        return groups.issue_next()

    def _skip_quarantined(self) -> None:
        """A sample that was given up in one epoch is not tried again in the next."""
        if not self.quarantine.num_samples:
            return
        while self._groups.num_new and self._groups.next_sample_id() in self.quarantine:
            self._groups.skip_next()
            self._num_openings += 1
            self.revision += 1

    def _is_open(self, index: int, serving_version: int) -> bool:
        """Whether the group at `index` of the pending ones may be leased for this version."""
        if serving_version < 0 or self._num_ahead + index >= self.rules.slots:
            return False
        step = self._step_of(index)
        is_fresh = step - 1 - serving_version <= self.rules.max_staleness
        return is_fresh and step <= self.last_step

    def _fail(self, entry: Entry, blame: Blame, reason: str, why: str, now: float) -> bool:
        """A lease ends without a group. True when that quarantined the sample."""
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
        self._give_up(entry, "rollout", entry.failures, why)
        self._num_openings += 1
        return True

    def _give_up(self, entry: Entry, where: str, attempts: int, why: str, step: int = 0) -> None:
        sample_id = entry.assignment.sample.sample_id
        self.quarantine.add(Quarantined(sample_id, where, entry.group_id, attempts, why, step))

    def _next_lapse(self) -> float | None:
        """All leases run equally long, so the first granted is the first to lapse."""
        for entry in self._groups.leased.values():
            return entry.deadline
        return None

    def _note_idle(self, owner: Owner, submitted: Entry) -> None:
        """A server that has become idle may be what a suspect waits for."""
        if owner in self._groups.held:
            return
        limit = self.rules.max_attempts
        suspects = (entry for entry in self._groups.returned if needs_solitude(entry, limit))
        self._num_openings += submitted.is_alone or any(suspects)

    def _check_learner(self, owner: Owner, rank: int, world_size: int) -> None:
        """Only the life of rank 0 that has said where it starts may take; at first, any."""
        if not 0 <= rank < world_size <= self.rules.groups_per_step:
            raise Refusal(
                "bad_request",
                f"rank {rank} of {world_size}: a step of {self.rules.groups_per_step} groups can "
                "be split over as many ranks. Fix: raise learner.groups_per_step or use fewer",
            )
        is_new = rank == 0 and owner != self._resumed_by
        if self._is_doubtful or (is_new and self._resumed_by is not None):
            raise Refusal("not_resumed", "a learner must say where it resumes before it takes")
        if not is_new:
            return
        self._resumed_by = owner
        self.revision += 1

    def _is_batch_complete(self, step: int) -> bool:
        """Whether the first P pending groups are READY and fresh; stale ones are returned."""
        size = self.rules.groups_per_step
        if self._is_blocked(size):
            return False
        for entry in self._groups.pending[:size]:
            if entry.state is State.READY and self._is_stale(entry, step):
                self._groups.expire(entry, "stale_at_take")
                self.revision += 1
            if entry.state is not State.READY:
                self._blocker = entry
                return False
        return len(self._groups.pending) >= size

    def _is_blocked(self, size: int) -> bool:
        """The group that was missing when last asked is still missing: no need to look at all."""
        blocker = self._blocker
        if blocker is None or blocker.state not in (State.WAITING, State.LEASED):
            return False
        return self._groups.index(blocker) < size

    def _begin_step(self, number: int, world_size: int) -> None:
        entries = self._groups.begin_step(self.rules.groups_per_step)
        loads = [e.num_tokens + e.receipt.num_prompt_tokens for e in entries if e.receipt]
        self._num_takings += 1
        self._step = Step(number, self._num_takings, entries, split_by_load(loads, world_size))
        self.revision += 1

    def _untake(self) -> None:
        """The step under way goes back; whoever holds it is fenced."""
        if self._step is not None:
            self._groups.untake(self._step.entries)
            self._step = None

    def _finish_step(self, step: Step) -> None:
        for entry in step.entries:
            is_refused = entry.group_id in step.refused
            self._groups.finish(entry, is_refused)
            if is_refused:
                self._give_up(entry, "learner", 1, step.refused[entry.group_id], step.number)
            if not is_refused and entry.receipt is not None:
                staleness = step.number - 1 - entry.receipt.oldest_version
                self.max_staleness_seen = max(self.max_staleness_seen, staleness)
        self.version = step.number
        self._step = None
        self._done.append(step)
        self._num_unfreed += len(step.entries)
        self._num_openings += 1
        self._free_slots()

    def _free_slots(self) -> None:
        """Free the slots of steps whose weights every live rollout server serves."""
        floor = self.servers.floor()
        while floor is not None and self.freed < min(floor, self.version):
            self.freed += 1
            freed = self._done[self.freed - self._done[0].number]
            self._num_unfreed -= len(freed.entries)
            self._num_openings += 1
        self._prune()

    def _prune(self) -> None:
        while self._done and self._done[0].number <= min(self.pruned, self.freed):
            self._groups.forget(self._done.popleft().entries)

    def _undo_since(self, step: int) -> None:
        """Make `step` the newest again, in a new history."""
        self.history += 1
        while self._done and self._done[-1].number > step:
            undone = self._done.pop()
            self._groups.undo(undone.entries, undone.refused)
        self.quarantine.undo_since(step)
        self._end_all_leases("rewound")
        self.version = step
        self.committed = min(self.committed, step)
        self.freed = min(self.freed, step)
        self._num_unfreed = sum(len(s.entries) for s in self._done if s.number > self.freed)
        window = self.rules.slots - self._num_ahead
        for index, entry in enumerate(self._groups.pending):
            is_of_the_future = entry.receipt is not None and entry.receipt.newest_version > step
            if entry.state is State.READY and (index >= window or is_of_the_future):
                self._groups.expire(entry, "rewound")

    def _end_all_leases(self, reason: str) -> None:
        """Whatever is generated now comes from weights of a history that is over."""
        for entry in list(self._groups.leased.values()):
            self._groups.end_lease(entry, reason)
        self.servers.forget_versions()
        self._num_openings += 1
