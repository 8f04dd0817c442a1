"""Every decision about samples: WAITING -> LEASED -> READY -> TAKEN -> DONE.

A pure state machine: no socket, no clock, no await, no randomness. Time is an argument, in seconds
on any one steady clock. P = groups_per_step, S = max_staleness.

- Order. Groups are issued in the order of the source and keep their place in it for good; step k
  trains the first P groups that no step before it took. A quarantined group gives its place to the
  next one. Groups that come back are leased again before any new one.
- Slots. An issued group holds one of (S + 1) * P slots until it is quarantined, or until its step
  is acknowledged and every live rollout server serves the weights made from it. A group of step k
  is therefore issued only when all servers serve version k - 1 - S or newer, which bounds staleness
  by construction; `lease` and the guard check it all the same.
- Leases lapse. Each lease of a group has the next attempt number; only the holder of the current
  one can submit.
- The learner's batch is the lease of a step: asked for again, it is the same batch. Another learner
  process that asks takes it over, and the former holder's acknowledgement is fenced.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from operator import attrgetter

from broker.accounts import Amounts, Books, Place
from broker.entry import Entry, Rules, State, Step
from broker.membership import Owner
from broker.protocol import Batch, Verdict
from broker.refusal import Refusal
from broker.source import SampleSource
from common.types import FinishReason, Group, GroupLease


class Ledger:
    def __init__(self, source: SampleSource, rules: Rules) -> None:
        self.rules = rules
        self.books = Books()
        self.version = 0  # the learner's: steps acknowledged
        self.max_staleness_seen = 0  # of trained trajectories, in steps
        self.slots = (rules.max_staleness + 1) * rules.groups_per_step
        all_steps = source.num_groups // rules.groups_per_step
        self.total_steps = min(all_steps, rules.max_steps or all_steps)
        self._source = source
        self._next_order = 0  # of the source's next group
        self._entries: dict[str, Entry] = {}  # whatever holds a slot
        self._pending: list[Entry] = []  # issued and not in a step yet, by order
        self._returned: list[Entry] = []  # those of them that are WAITING, by order
        self._leased: dict[str, Entry] = {}  # those that are LEASED, by deadline
        self._step: Step | None = None  # the learner's
        self._last_holder: Owner | None = None  # who acknowledged step `version`
        self._unfreed: deque[Step] = deque()  # acknowledged steps that hold slots

    # ---- rollout side ----------------------------------------------------------------------------
    def lease(
        self, owner: Owner, max_groups: int, serving_version: int, now: float
    ) -> list[GroupLease]:
        """Up to `max_groups` leases for a server that generates with `serving_version` or newer."""
        if serving_version > self.version:
            raise Refusal(
                "bad_request", f"serving version {serving_version}, the newest is {self.version}"
            )
        leases: list[GroupLease] = []
        while len(leases) < max_groups:
            entry = self._next_to_lease(serving_version)
            if entry is None:
                break
            leases.append(self._grant(entry, owner, now))
        return leases

    @property
    def has_work(self) -> bool:
        """False when no server, however fresh, would get a lease now."""
        return self._candidate_index(self.version) is not None

    def submit(self, owner: Owner, group: Group) -> Verdict:
        """Take in a generated group. Sending it twice is harmless, sending it late too.

        Raises:
            Refusal: it is not what was leased.
        """
        entry = self._entries.get(group.group_id)
        if entry is None or entry.attempt != group.attempt:
            return Verdict.FENCED
        if entry.state is not State.LEASED:
            return Verdict.FENCED if entry.state is State.WAITING else Verdict.DUPLICATE
        if entry.owner != owner:
            return Verdict.FENCED
        self._check_content(entry, group)
        del self._leased[entry.group_id]
        entry.group = group
        self.books.issue(Amounts(0, 0, group.num_response_tokens))
        if self._is_stale(entry, self._step_of(self._index(entry))):
            self._return(entry, Place.IN_FLIGHT, "stale_at_submit")
            return Verdict.STALE
        entry.state = State.READY
        self.books.move(self._amounts(entry), Place.IN_FLIGHT, Place.WAITING)
        return Verdict.ACCEPTED

    def give_back(self, owner: Owner, group_id: str, attempt: int, broken_sample: bool) -> bool:
        """End a lease without a group. True when that quarantined the sample.

        A lease that is over already, or another's, is left alone.
        """
        entry = self._leased.get(group_id)
        if entry is None or entry.attempt != attempt or entry.owner != owner:
            return False
        entry.failures += broken_sample
        if entry.failures < self.rules.max_attempts:
            self._end_lease(entry, "broken_sample" if broken_sample else "given_back")
            return False
        del self._leased[group_id], self._entries[group_id]
        del self._pending[self._index(entry)]
        self.books.move(self._amounts(entry), Place.IN_FLIGHT, Place.QUARANTINED)
        return True

    def release(self, owner: Owner, reason: str) -> list[str]:
        """End all leases of a member that went away; returns the groups."""
        gone = [entry for entry in self._leased.values() if entry.owner == owner]
        for entry in gone:
            self._end_lease(entry, reason)
        return [entry.group_id for entry in gone]

    def lapse(self, now: float) -> list[str]:
        """End all leases whose time is over; returns the groups."""
        lapsed: list[str] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            entry = next(iter(self._leased.values()))
            self._end_lease(entry, "lease_lapsed")
            lapsed.append(entry.group_id)
        return lapsed

    def next_deadline(self) -> float | None:
        """When the next lease lapses. All run equally long, so the first granted is the first."""
        for entry in self._leased.values():
            return entry.deadline
        return None

    def free_slots(self, serving_floor: int | None) -> None:
        """Free the slots of steps whose weights every live rollout server serves."""
        while self._unfreed and serving_floor is not None:
            if self._unfreed[0].number > serving_floor:
                return
            for entry in self._unfreed.popleft().entries:
                del self._entries[entry.group_id]

    # ---- learner side ----------------------------------------------------------------------------
    def take(self, owner: Owner, step: int) -> Batch | None:
        """The groups of the next step, in order; None until all are there.

        Raises:
            Refusal: not the step after the last acknowledged one.
        """
        if step != self.version + 1:
            raise Refusal("bad_step", f"step {step} taken, but {self.version} are acknowledged")
        if self._step is not None:
            self._step.holder = owner
            return self._batch(self._step)
        if step > self.last_step:
            return Batch(step=step, groups=(), exhausted=True)
        entries = self._pending[: self.rules.groups_per_step]
        for entry in entries:
            if entry.state is State.READY and self._is_stale(entry, step):
                self._return(entry, Place.WAITING, "stale_at_take")
        complete = len(entries) == self.rules.groups_per_step
        if not complete or any(entry.state is not State.READY for entry in entries):
            return None
        del self._pending[: len(entries)]
        for entry in entries:
            entry.state = State.TAKEN
            self.books.move(self._amounts(entry), Place.WAITING, Place.IN_FLIGHT)
        self._step = Step(step, entries, owner)
        return self._batch(self._step)

    def acknowledge(self, owner: Owner, step: int, refused: Mapping[str, str]) -> None:
        """Step `step` has trained on its batch but for the `refused` groups (quarantined).

        Refused groups keep their slots until the step's are freed: giving a slot away early would
        let a group of a later step start on weights that are too old for it.

        Raises:
            Refusal: not the holder of that step's batch, or a group that is not in it.
        """
        if step == self.version and owner == self._last_holder:
            return  # asked again
        if self._step is None or self._step.number != step:
            raise Refusal("bad_step", f"step {step} is not taken; {self.version} are acknowledged")
        if self._step.holder != owner:
            raise Refusal("fenced", f"another learner has taken step {step} since")
        strangers = refused.keys() - {entry.group_id for entry in self._step.entries}
        if strangers:
            raise Refusal("bad_request", f"not in step {step}: {', '.join(sorted(strangers))}")
        for entry in self._step.entries:
            self._finish_entry(entry, step, is_refused=entry.group_id in refused)
        self.version = step
        self._last_holder = owner
        self._unfreed.append(self._step)
        self._step = None

    @property
    def last_step(self) -> int:
        """The last step for which there can be groups, quarantined ones left out."""
        left = len(self._pending) + self._source.num_groups - self._next_order
        return min(self.total_steps, self._taken_step + left // self.rules.groups_per_step)

    # ---- accounts --------------------------------------------------------------------------------
    @property
    def slots_used(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """Whatever holds a slot, in no particular order. Not to be changed."""
        return list(self._entries.values())

    def counts(self) -> dict[str, int]:
        """The books, and what became of the source's groups."""
        return {
            "groups_total": self._source.num_groups,
            "groups_never_issued": self._source.num_groups - self._next_order,
            "groups_to_issue_again": len(self._returned),
            "slots_used": self.slots_used,
            **self.books.counts(),
        }

    def check(self) -> None:
        """The invariants that cost little; raises AssertionError. Run after every transition."""
        self.books.check()
        samples, trajectories = self.books.samples, self.books.trajectories
        num_taken = len(self._step.entries) if self._step else 0
        num_ready = len(self._pending) - len(self._returned) - len(self._leased)
        assert samples[Place.IN_FLIGHT] == len(self._leased) + num_taken
        assert samples[Place.WAITING] == num_ready
        for place in Place:
            assert trajectories[place] == samples[place] * self.rules.trajectories_per_sample
        ended = samples[Place.TRAINED] + samples[Place.QUARANTINED]
        assert self._next_order == ended + len(self._pending) + num_taken, "a group was lost"
        num_unfreed = sum(len(step.entries) for step in self._unfreed)
        assert self.slots_used == len(self._pending) + num_taken + num_unfreed <= self.slots
        assert self.max_staleness_seen <= self.rules.max_staleness

    # ---- inside ----------------------------------------------------------------------------------
    @property
    def _taken_step(self) -> int:
        return self.version + (self._step is not None)

    def _index(self, entry: Entry) -> int:
        return bisect_left(self._pending, entry.order, key=attrgetter("order"))

    def _step_of(self, index: int) -> int:
        """The step that will train the group at `index` of the pending ones."""
        return self._taken_step + 1 + index // self.rules.groups_per_step

    def _is_stale(self, entry: Entry, step: int) -> bool:
        assert entry.group is not None
        return step - 1 - entry.group.oldest_version > self.rules.max_staleness

    def _candidate_index(self, serving_version: int) -> int | None:
        """Place among the pending groups of the one to lease next; None: none may be."""
        if self._returned:
            index = self._index(self._returned[0])
        elif self.slots_used < self.slots and self._next_order < self._source.num_groups:
            index = len(self._pending)
        else:
            return None
        step = self._step_of(index)
        is_needed = step <= self.last_step
        is_fresh = step - 1 - serving_version <= self.rules.max_staleness
        return index if is_needed and is_fresh else None

    def _next_to_lease(self, serving_version: int) -> Entry | None:
        if self._candidate_index(serving_version) is None:
            return None
        if self._returned:
            return self._returned.pop(0)
        entry = Entry(self._next_order, self._source.at(self._next_order))
        self._next_order += 1
        self._entries[entry.group_id] = entry
        self._pending.append(entry)
        return entry

    def _grant(self, entry: Entry, owner: Owner, now: float) -> GroupLease:
        entry.state = State.LEASED
        entry.attempt += 1
        entry.owner = owner
        entry.deadline = now + self.rules.lease_s
        self._leased[entry.group_id] = entry
        self.books.issue(self._amounts(entry))
        return GroupLease(
            group_id=entry.group_id,
            attempt=entry.attempt,
            sample=entry.assignment.sample,
            num_trajectories=self.rules.trajectories_per_sample,
            sampling_seed=entry.assignment.sampling_seed,
            lease_s=self.rules.lease_s,
        )

    def _check_content(self, entry: Entry, group: Group) -> None:
        expected = self.rules.trajectories_per_sample
        if group.sample != entry.assignment.sample:
            raise Refusal("bad_group", f"{group.group_id} was leased with another sample")
        if [t.index for t in group.trajectories] != list(range(expected)):
            raise Refusal("bad_group", f"{group.group_id} needs trajectories 0 to {expected - 1}")
        if any(t.finish_reason is FinishReason.ABORT for t in group.trajectories):
            raise Refusal("bad_group", f"{group.group_id} has an aborted trajectory")
        newest = max(t.newest_version for t in group.trajectories)
        if newest > self.version:
            raise Refusal("bad_group", f"version {newest}, but the newest is {self.version}")

    def _amounts(self, entry: Entry) -> Amounts:
        tokens = entry.group.num_response_tokens if entry.group else 0
        return Amounts(1, self.rules.trajectories_per_sample, tokens)

    def _end_lease(self, entry: Entry, reason: str) -> None:
        del self._leased[entry.group_id]
        self._return(entry, Place.IN_FLIGHT, reason)

    def _return(self, entry: Entry, source: Place, reason: str) -> None:
        """The attempt has expired; its sample is to be issued again."""
        self.books.expire(self._amounts(entry), source, reason)
        entry.state = State.WAITING
        entry.owner = None
        entry.group = None
        insort(self._returned, entry, key=attrgetter("order"))

    def _finish_entry(self, entry: Entry, step: int, is_refused: bool) -> None:
        assert entry.group is not None
        target = Place.QUARANTINED if is_refused else Place.TRAINED
        self.books.move(self._amounts(entry), Place.IN_FLIGHT, target)
        if not is_refused:
            staleness = step - 1 - entry.group.oldest_version
            self.max_staleness_seen = max(self.max_staleness_seen, staleness)
        entry.state = State.DONE
        entry.group = None

    @staticmethod
    def _batch(step: Step) -> Batch:
        groups = tuple(entry.group for entry in step.entries if entry.group is not None)
        assert len(groups) == len(step.entries)
        return Batch(step=step.number, groups=groups)
