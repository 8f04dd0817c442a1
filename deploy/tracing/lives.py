"""What became of each lease of a group, as the broker's journal tells it."""

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from broker.protocol import Role
from broker.storage.frames import Record
from deploy.planning.journal_facts import CommandReader


class LifePhase(StrEnum):
    """What a group is in."""

    LEASE = "lease"
    QUEUE = "queue"
    TRAIN = "train"


@dataclass
class GroupLife:
    """One attempt at a group. Seconds are on the broker's clock."""

    group_id: str
    attempt: int
    server: str
    begin_s: float
    lane: int = 0  # of its server, counted from 1: no two leases of a lane overlap; 0: no lease
    submitted_s: float | None = None  # None, as in the next: not yet, or never
    taken_s: float | None = None
    end_s: float = 0.0
    step: int | None = None
    ending: str = ""
    tokens: int = 0
    oldest_version: int | None = None

    @property
    def phase(self) -> LifePhase:
        if self.taken_s is not None:
            return LifePhase.TRAIN
        return LifePhase.LEASE if self.submitted_s is None else LifePhase.QUEUE

    @property
    def key(self) -> str:
        return f"{self.group_id}#{self.attempt}"


class Lives(CommandReader):
    """Reads records one by one.

    Attributes:
        counts: groups by phase.
        now: seconds of the last record.
        acknowledged: the step that the last record acknowledged; None means that it did not.
        served: (server, version) of the last record; None as above.
    """

    def __init__(self) -> None:
        self._open: dict[str, GroupLife] = {}  # by group: one attempt at a time
        self._taken: dict[int, list[GroupLife]] = {}
        self._ended: list[GroupLife] = []
        self._unfreed: Counter[int] = Counter()  # groups by step that was trained
        self._serving: dict[str, int] = {}
        self._newest = 0  # step that was trained
        self._lanes: defaultdict[str, set[int]] = defaultdict(set)  # in use, by server
        self.counts = dict.fromkeys(LifePhase, 0)
        self.now = 0.0
        self.acknowledged: int | None = None
        self.served: tuple[str, int] | None = None

    def read(self, record: Record) -> list[GroupLife]:
        """The lives that ended with it. Raises CorruptJournal: it is of another version."""
        self.now, self._ended = record.seconds, []
        self.acknowledged = self.served = None
        self.dispatch(record)
        return self._ended

    def close(self) -> list[GroupLife]:
        """The lives that had not ended when the journal did."""
        self._ended = []
        for life in list(self._open.values()):
            self._end(life, "in flight")
        return self._ended

    @property
    def slots(self) -> int:
        """Slots in use, but for those of groups that wait to be leased again."""
        return len(self._open) + sum(self._unfreed.values())

    # ---- calls of the ledger ---------------------------------------------------------------------
    def _on_join(self, told: Mapping[str, Any], outcome: Any) -> None:
        if told["role"] is Role.ROLLOUT:
            self._end_leases("its server began anew", told["owner"][0])

    def _on_leave(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._end_leases(f"its server left: {told['reason']}", told["owner"][0])
        self._serving.pop(told["owner"][0], None)
        self._free()

    def _on_lease(self, told: Mapping[str, Any], outcome: Any) -> None:
        for group_id, attempt in outcome or ():
            before = self._open.get(group_id)
            if before is not None and before.attempt == attempt:
                continue  # asked again
            if before is not None:
                self._end(before, "expired")
            server = told["owner"][0]
            lane = next(n for n in itertools.count(1) if n not in self._lanes[server])
            self._lanes[server].add(lane)
            self._begin(GroupLife(group_id, attempt, server, self.now, lane))

    def _on_submit(self, told: Mapping[str, Any], outcome: Any) -> None:
        life = self._open.get(told["group_id"])
        if life is None or life.attempt != told["attempt"] or life.phase is not LifePhase.LEASE:
            return
        if outcome == "accepted":
            self._leave_lane(life)
            with self._moving(life):
                life.submitted_s = self.now
            life.tokens = sum(told["receipt"].lengths)
            life.oldest_version = told["receipt"].oldest_version

    def _on_give_back(self, told: Mapping[str, Any], outcome: Any) -> None:
        life = self._open.get(told["group_id"])
        if life is not None and life.attempt == told["attempt"] and life.phase is LifePhase.LEASE:
            self._end(life, f"given back: {told['why']}")

    def _on_lapse(self, told: Mapping[str, Any], outcome: Any) -> None:
        for group_id in outcome or ():
            if group_id in self._open:
                self._end(self._open[group_id], "lapsed")

    def _on_lose(self, told: Mapping[str, Any], outcome: Any) -> None:
        life = self._open.get(told["group_id"])
        if life is not None and life.attempt == told["attempt"]:
            self._end(life, "its trajectories were damaged")

    def _on_rewind(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._untake()
        if told["step"] < self._newest:
            self._newest = told["step"]
            self._end_leases("a learner went back")
        for step in [step for step in self._unfreed if step > self._newest]:
            del self._unfreed[step]

    def _on_doubt(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._untake()
        self._end_leases("power was lost")

    def _on_serve(self, told: Mapping[str, Any], outcome: Any) -> None:
        self.served = (told["owner"][0], told["version"])
        self._serving[told["owner"][0]] = told["version"]
        self._free()

    def _on_take(self, told: Mapping[str, Any], outcome: Any) -> None:
        for group_id, attempt in outcome or ():
            life = self._open.get(group_id)
            if life is None:  # of a step that was undone: nothing of it is generated again
                life = GroupLife(group_id, attempt, "", self.now, submitted_s=self.now)
                self._begin(life)
            if life.taken_s is None:
                with self._moving(life):
                    life.taken_s, life.step = self.now, told["step"]
                self._taken.setdefault(told["step"], []).append(life)

    def _on_acknowledge(self, told: Mapping[str, Any], outcome: Any) -> None:
        if outcome is not True or told["step"] not in self._taken:
            return
        step = self.acknowledged = self._newest = told["step"]
        lives = self._taken.pop(step)
        self._unfreed[step] = len(lives)
        for life in lives:
            self._end(life, "refused" if life.group_id in told["refused"] else "trained")
        self._free()

    # ---- inside ----------------------------------------------------------------------------------
    def _begin(self, life: GroupLife) -> None:
        self._open[life.group_id] = life
        self.counts[life.phase] += 1

    @contextlib.contextmanager
    def _moving(self, life: GroupLife) -> Iterator[None]:
        """Count it where it is afterwards."""
        self.counts[life.phase] -= 1
        yield
        self.counts[life.phase] += 1

    def _leave_lane(self, life: GroupLife) -> None:
        self._lanes[life.server].discard(life.lane)

    def _end(self, life: GroupLife, ending: str) -> None:
        life.ending, life.end_s = ending, self.now
        if life.phase is LifePhase.LEASE:
            self._leave_lane(life)
        if life.step is not None and life in (taken := self._taken.get(life.step, [])):
            taken.remove(life)
        del self._open[life.group_id]
        self.counts[life.phase] -= 1
        self._ended.append(life)

    def _end_leases(self, ending: str, server: str | None = None) -> None:
        """End those of one server; None means all."""
        for life in list(self._open.values()):
            if life.phase is LifePhase.LEASE and server in (None, life.server):
                self._end(life, ending)

    def _untake(self) -> None:
        for lives in self._taken.values():
            for life in lives:
                with self._moving(life):
                    life.taken_s = life.step = None
        self._taken.clear()

    def _free(self) -> None:
        floor = min(self._serving.values(), default=None)
        if floor is not None:
            for step in [step for step in self._unfreed if step <= floor]:
                del self._unfreed[step]
