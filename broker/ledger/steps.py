"""The learner's steps: READY -> TAKEN -> DONE, and back when a learner rewinds. Pure.

    take --all ranks acknowledge--> done --servers serve its weights--> freed --commit--> forgotten
      ^                              |
      '---------- rewind ------------'

Steps are consecutive. The one under way is the only one that a learner can hold; those that are
done are kept until no rewind goes behind them and their slots are free.
"""

from collections import deque
from collections.abc import Mapping

from broker.ledger.entry import Entry, Owner, Rules, Shard, State, Step
from broker.ledger.groups import Groups
from broker.ledger.quarantine import Quarantine
from broker.ledger.refusal import Refusal
from broker.ledger.servers import Servers
from broker.ledger.shards import split_by_load

_ATTEMPT_BITS = 20  # a group is not tried a million times between two power cuts


class Steps:
    """The step under way, the steps before it, and the slots that these hold.

    Args:
        rules: the ledger's; replaced when a resumed run amends them.
        groups: moved between states by what happens to their step.
        servers: whose weights decide when a step's slots are free.
        quarantine: takes what the learner refuses.
    """

    def __init__(
        self, rules: Rules, groups: Groups, servers: Servers, quarantine: Quarantine
    ) -> None:
        self.rules = rules
        self.version = 0  # the learner's weights: steps acknowledged
        self.history = 0  # rewinds that undid something
        self.freed = 0  # newest step whose slots are free
        self.committed = 0  # newest step that a checkpoint holds
        self.pruned = 0  # no rewind goes behind this step
        self.is_finished = False  # the last step is trained, and the learner has said so
        self.max_staleness_seen = 0  # largest staleness of a trained trajectory, in steps
        self.revision = 0  # grows with every change here
        self.num_openings = 0  # grows when slots are freed here, or leases end
        self.current: Step | None = None  # the step that the learner has taken, not acknowledged
        self.done: deque[Step] = deque()  # acknowledged, consecutive, not pruned yet
        self._groups = groups
        self._servers = servers
        self._quarantine = quarantine
        self._num_unfreed = 0  # groups of acknowledged steps that hold slots
        self._num_takings = 0  # batches formed
        self._blocker: Entry | None = None  # why the next batch was not complete when last asked
        self._resumed_by: Owner | None = None  # the life of rank 0 that may take batches
        self._is_doubtful = False  # no learner may take until one says where it resumes

    # ---- what the learner says -------------------------------------------------------------------
    def take(self, owner: Owner, step: int, rank: int = 0, world_size: int = 1) -> Shard | None:
        """Take one rank's share of the next step, in order; None until all its groups are there.

        Raises:
            Refusal: not the step after the last acknowledged one; another world size than that of
                the rank that took it first; a new life of rank 0 that has not said where it
                resumes.
        """
        self._check_learner(owner, rank, world_size)
        if step != self.version + 1:
            raise Refusal("bad_step", f"step {step} taken, but {self.version} are acknowledged")
        if self.current is None:
            if step > self.last_step:
                return Shard(step, (), exhausted=True)
            if not self._is_batch_complete(step):
                return None
            self._begin_step(step, world_size)
        assert self.current is not None
        if len(self.current.shards) != world_size:
            raise Refusal(
                "bad_request",
                f"step {step} is split over {len(self.current.shards)} ranks, not {world_size}",
            )
        if self.current.holders.get(rank) != owner:
            self.current.holders[rank] = owner
            self.current.acknowledged.discard(rank)
            self.revision += 1
        return Shard(step, self.current.shard(rank), self.current.batch_id)

    def acknowledge(
        self, owner: Owner, step: int, taking: int, refused: Mapping[str, str], rank: int = 0
    ) -> bool:
        """Note that a rank has trained its shard of `step`; `refused` groups are quarantined.

        True when all ranks have: then the step is done. Refused groups keep their slots until the
        step's are freed: giving a slot away early would let a group of a later step start on
        weights that are too old for it.

        Raises:
            Refusal: not the holder of that shard, or a group that is not in it.
        """
        if step <= self.version and self.done and self.done[-1].holders.get(rank) == owner:
            return True  # asked again
        if self.current is None or self.current.number != step:
            raise Refusal("bad_step", f"step {step} is not taken; {self.version} are acknowledged")
        if self.current.holders.get(rank) != owner:
            raise Refusal("fenced", f"another learner has taken step {step} since")
        if self.current.batch_id != taking:
            raise Refusal("fenced", f"step {step} has been taken anew, with other groups")
        mine = {entry.group_id for entry in self.current.shard(rank)}
        if strangers := refused.keys() - mine:
            raise Refusal("bad_request", f"not in step {step}: {', '.join(sorted(strangers))}")
        if rank not in self.current.acknowledged:
            self.revision += 1
            self.current.acknowledged.add(rank)
            self.current.refused |= refused
        if len(self.current.acknowledged) < len(self.current.shards):
            return False
        self._finish_step(self.current)
        return True

    def commit(self, step: int, oldest: int) -> None:
        """Note that a checkpoint of `step` is about to exist; `oldest` is the oldest that is kept.

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
        """Start a new learner with the weights of `step`. Returns the history it is in.

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
        self.untake()
        if step < self.version:
            self._undo_since(step)
        return self.history

    def finish(self) -> None:
        """End the run for good, if its last step is trained: then a restart changes nothing."""
        if not self.is_finished and self.version >= self.last_step:
            self.is_finished = True
            self.revision += 1

    def doubt(self) -> None:
        """Begin a new history after a power cut: what was acknowledged last may be forgotten here.

        Servers and learner may have gone on from there, so a new history begins: no server counts
        as serving anything, and another life of the learner must say where it resumes. Leases may
        be forgotten too, so attempts go on from a number that none of them can have reached.
        """
        self.revision += 1
        self.history += 1
        self._groups.first_attempt = self.history << _ATTEMPT_BITS
        self.untake()
        self._end_all_leases("power_lost")
        self._is_doubtful = True

    # ---- what the ledger asks --------------------------------------------------------------------
    @property
    def total_steps(self) -> int:
        all_steps = self._groups.num_total // self.rules.groups_per_step
        return min(all_steps, self.rules.max_steps or all_steps)

    @property
    def last_step(self) -> int:
        """The last step for which there can be groups, quarantined ones left out."""
        left = len(self._groups.pending) + self._groups.num_new
        return min(self.total_steps, self.taken + left // self.rules.groups_per_step)

    @property
    def left_over(self) -> int:
        """Groups that no step will train because there are too few for one more."""
        if self.last_step == self.rules.max_steps:
            return 0  # it is the configuration that leaves them out
        left = len(self._groups.pending) + self._groups.num_new
        return left - (self.last_step - self.taken) * self.rules.groups_per_step

    @property
    def taken(self) -> int:
        """The newest step that was taken."""
        return self.version + (self.current is not None)

    @property
    def num_ahead(self) -> int:
        """Groups that hold slots before any pending one."""
        return self._num_unfreed + (len(self.current.entries) if self.current else 0)

    def step_of(self, index: int) -> int:
        """The step that will train the group at `index` of the pending ones."""
        return self.taken + 1 + index // self.rules.groups_per_step

    def is_stale(self, entry: Entry, step: int) -> bool:
        """Tell whether a submitted group is too old to be trained in `step`."""
        assert entry.receipt is not None
        return step - 1 - entry.receipt.oldest_version > self.rules.max_staleness

    def untake(self) -> None:
        """Give the step under way back; the ranks that hold it are fenced."""
        if self.current is not None:
            self._groups.untake(self.current.entries)
            self.current = None

    def free_slots(self) -> None:
        """Free the slots of steps whose weights every live rollout server serves."""
        floor = self._servers.floor()
        while floor is not None and self.freed < min(floor, self.version):
            self.freed += 1
            freed = self.done[self.freed - self.done[0].number]
            self._num_unfreed -= len(freed.entries)
            self.num_openings += 1
        self._prune()

    # ---- inside ----------------------------------------------------------------------------------
    def _check_learner(self, owner: Owner, rank: int, world_size: int) -> None:
        """Refuse a life of rank 0 that has not said where it starts, unless it is the first."""
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
        """Tell whether the first P pending groups are READY and fresh; stale ones are returned."""
        size = self.rules.groups_per_step
        if self._is_blocked(size):
            return False
        for entry in self._groups.pending[:size]:
            if entry.state is State.READY and self.is_stale(entry, step):
                self._groups.expire(entry, "stale_at_take")
                self.revision += 1
            if entry.state is not State.READY:
                self._blocker = entry
                return False
        return len(self._groups.pending) >= size

    def _is_blocked(self, size: int) -> bool:
        """Tell whether the group that was missing when last asked is still missing."""
        blocker = self._blocker
        if blocker is None or blocker.state not in (State.WAITING, State.LEASED):
            return False
        return self._groups.index(blocker) < size

    def _begin_step(self, number: int, world_size: int) -> None:
        entries = self._groups.begin_step(self.rules.groups_per_step)
        loads = [e.num_tokens + e.receipt.num_prompt_tokens for e in entries if e.receipt]
        self._num_takings += 1
        self.current = Step(number, self._num_takings, entries, split_by_load(loads, world_size))
        self.revision += 1

    def _finish_step(self, step: Step) -> None:
        self._groups.finish(step.entries, step.refused)
        for entry in step.entries:
            if entry.group_id in step.refused:
                reason = step.refused[entry.group_id]
                self._quarantine.give_up(entry, "learner", 1, reason, step.number)
            elif entry.receipt is not None:
                staleness = step.number - 1 - entry.receipt.oldest_version
                self.max_staleness_seen = max(self.max_staleness_seen, staleness)
        self.version = step.number
        self.current = None
        self.done.append(step)
        self._num_unfreed += len(step.entries)
        self.num_openings += 1
        self.free_slots()

    def _prune(self) -> None:
        while self.done and self.done[0].number <= min(self.pruned, self.freed):
            self._groups.forget(self.done.popleft().entries)

    def _undo_since(self, step: int) -> None:
        """Make `step` the newest again, in a new history."""
        self.history += 1
        while self.done and self.done[-1].number > step:
            undone = self.done.pop()
            self._groups.undo(undone.entries, undone.refused)
        self._quarantine.undo_since(step)
        self._end_all_leases("rewound")
        self.version = step
        self.committed = min(self.committed, step)
        self.freed = min(self.freed, step)
        self._num_unfreed = sum(len(s.entries) for s in self.done if s.number > self.freed)
        window = self.rules.slots - self.num_ahead
        for index, entry in enumerate(self._groups.pending):
            is_of_the_future = entry.receipt is not None and entry.receipt.newest_version > step
            if entry.state is State.READY and (index >= window or is_of_the_future):
                self._groups.expire(entry, "rewound")

    def _end_all_leases(self, reason: str) -> None:
        """End all leases: what is generated now comes from weights of a history that is over."""
        for entry in list(self._groups.leased.values()):
            self._groups.end_lease(entry, reason)
        self._servers.forget_versions()
        self.num_openings += 1
