"""The rules of the broker once more, as plainly as possible: one list, everything recomputed."""

from collections import Counter
from dataclasses import dataclass, field

from broker.entry import Rules

PENDING = ("waiting", "leased", "ready")  # issued, in no step yet


@dataclass
class Row:
    status: str = "new"  # PENDING, "taken", "trained", "refused", "quarantined"
    attempt: int = -1
    owner: str = ""
    deadline: float = 0.0
    oldest: int = 0
    tokens: int = 0
    failures: int = 0
    step: int = 0
    has_slot: bool = False


@dataclass
class Reference:
    num_groups: int
    rules: Rules
    version: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # attempts, by reason
    lost_tokens: int = 0

    def __post_init__(self) -> None:
        self.rows = [Row() for _ in range(self.num_groups)]

    def with_status(self, *statuses: str) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row.status in statuses]

    def taken_steps(self) -> int:
        return self.version + bool(self.with_status("taken"))

    def last_step(self) -> int:
        p = self.rules.groups_per_step
        left = len(self.with_status("new", *PENDING))
        return min(self.num_groups // p, self.taken_steps() + left // p)

    def lease(self, owner: str, count: int, serving: int, now: float) -> list[tuple[int, int]]:
        granted: list[tuple[int, int]] = []
        for _ in range(count):
            waiting, new = self.with_status("waiting"), self.with_status("new")
            is_full = sum(row.has_slot for row in self.rows) == self.slots()
            if waiting:
                candidate = waiting[0]
            elif new and not is_full:
                candidate = new[0]
            else:
                break
            before = [i for i in self.with_status(*PENDING) if i < candidate]
            step = self.taken_steps() + len(before) // self.rules.groups_per_step + 1
            if step > self.last_step() or step - 1 - serving > self.rules.max_staleness:
                break
            row = self.rows[candidate]
            row.status, row.owner, row.has_slot = "leased", owner, True
            row.attempt += 1
            row.deadline = now + self.rules.lease_s
            granted.append((candidate, row.attempt))
        return granted

    def slots(self) -> int:
        return (self.rules.max_staleness + 1) * self.rules.groups_per_step

    def submit(self, owner: str, index: int, attempt: int, oldest: int, tokens: int) -> str:
        row = self.rows[index]
        if not row.has_slot or attempt != row.attempt:
            return "fenced"
        if row.status in ("ready", "taken", "trained", "refused"):
            return "duplicate"
        if row.status != "leased" or row.owner != owner:
            return "fenced"
        before = [i for i in self.with_status(*PENDING) if i < index]
        step = self.taken_steps() + len(before) // self.rules.groups_per_step + 1
        row.tokens = tokens
        if step - 1 - oldest > self.rules.max_staleness:
            self.lose(index, "stale_at_submit")
            return "stale"
        row.status, row.oldest = "ready", oldest
        return "accepted"

    def lose(self, index: int, reason: str) -> None:
        row = self.rows[index]
        self.lost[reason] += 1
        self.lost_tokens += row.tokens
        row.status, row.tokens = "waiting", 0

    def give_back(self, owner: str, index: int, attempt: int, is_broken: bool) -> None:
        row = self.rows[index]
        if row.status != "leased" or row.attempt != attempt or row.owner != owner:
            return
        row.failures += is_broken
        if row.failures == self.rules.max_attempts:
            row.status, row.has_slot = "quarantined", False
        else:
            self.lose(index, "broken_sample" if is_broken else "given_back")

    def release(self, owner: str) -> None:
        for index in self.with_status("leased"):
            if self.rows[index].owner == owner:
                self.lose(index, "member_lost")

    def lapse(self, now: float) -> None:
        for index in self.with_status("leased"):
            if self.rows[index].deadline <= now:
                self.lose(index, "lease_lapsed")

    def take(self) -> list[int] | None:
        """The next step's groups, None: not yet, []: no step is left."""
        if self.with_status("taken"):
            return self.with_status("taken")
        if self.version + 1 > self.last_step():
            return []
        first = self.with_status(*PENDING)[: self.rules.groups_per_step]
        is_there = all(self.rows[index].status == "ready" for index in first)
        if len(first) < self.rules.groups_per_step or not is_there:
            return None
        for index in first:
            self.rows[index].status = "taken"
            self.rows[index].step = self.version + 1
        return first

    def acknowledge(self, refused: set[int]) -> None:
        for index in self.with_status("taken"):
            self.rows[index].status = "refused" if index in refused else "trained"
        self.version += 1

    def free(self, floor: int) -> None:
        for row in self.rows:
            if row.status in ("trained", "refused") and row.step <= floor:
                row.has_slot = False
