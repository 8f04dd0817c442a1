"""The rules of the broker once more, as plainly as possible: one list, everything recomputed."""

from collections import Counter
from dataclasses import dataclass, field

from broker.ledger.entry import Rules

PENDING = ("waiting", "leased", "ready")  # issued, in no step yet
DONE = ("trained", "refused")


@dataclass
class Row:
    status: str = "new"  # PENDING, "taken", DONE, "quarantined"
    attempt: int = -1
    owner: str = ""
    deadline: float = 0.0
    oldest: int = 0
    newest: int = 0
    tokens: int = 0
    failures: int = 0
    is_suspect: bool = False
    is_alone: bool = False  # its current or last lease
    step: int = 0  # that took it

    def is_suspect_to_the_last(self, rules: Rules) -> bool:
        """Whether its next death may be its last: so that attempt must be made alone."""
        return self.is_suspect and self.failures >= max(1, rules.max_attempts - 1)


@dataclass
class Reference:
    num_groups: int
    rules: Rules
    version: int = 0
    history: int = 0
    freed: int = 0
    pruned: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # attempts, by reason
    lost_tokens: int = 0
    serving: dict[str, int] = field(default_factory=dict)  # live servers; -1: nothing yet

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

    def ahead(self) -> int:
        """Groups that hold slots before any pending one."""
        unfreed = [i for i in self.with_status(*DONE) if self.rows[i].step > self.freed]
        return len(unfreed) + len(self.with_status("taken"))

    def step_of(self, index: int) -> int:
        before = [i for i in self.with_status(*PENDING) if i < index]
        return self.taken_steps() + len(before) // self.rules.groups_per_step + 1

    def lease(self, owner: str, count: int, serving: int, now: float) -> list[tuple[int, int]]:
        granted: list[tuple[int, int]] = []
        serving = max(serving, self.serving.get(owner, -1))
        for _ in range(count):
            held = [row for row in self.rows if row.status == "leased" and row.owner == owner]
            if any(row.is_alone for row in held):
                break
            waiting = [
                index
                for index in self.with_status("waiting")
                if not held or not self.rows[index].is_suspect_to_the_last(self.rules)
            ]
            candidates = waiting or self.with_status("new")
            if not candidates or serving < 0:
                break
            index = candidates[0]
            before = [i for i in self.with_status(*PENDING) if i < index]
            step = self.step_of(index)
            if self.ahead() + len(before) >= self.rules.slots or step > self.last_step():
                break
            if step - 1 - serving > self.rules.max_staleness:
                break
            row = self.rows[index]
            row.is_alone = row.is_suspect_to_the_last(self.rules)
            row.status, row.owner = "leased", owner
            row.attempt += 1
            row.deadline = now + self.rules.lease_s
            granted.append((index, row.attempt))
        return granted

    def submit(self, owner: str, index: int, attempt: int, oldest: int, tokens: int) -> str:
        row = self.rows[index]
        if attempt != row.attempt or row.status in ("waiting", "new", "quarantined"):
            return "fenced"
        if row.status in DONE and row.step <= min(self.pruned, self.freed):
            return "fenced"  # forgotten
        if row.status in ("ready", "taken", *DONE):
            return "duplicate"
        if row.owner != owner:
            return "fenced"
        row.tokens, row.oldest, row.newest = tokens, oldest, oldest
        row.failures, row.is_suspect = 0, False
        if self.step_of(index) - 1 - oldest > self.rules.max_staleness:
            self.lose(index, "stale_at_submit")
            return "stale"
        row.status = "ready"
        return "accepted"

    def lose(self, index: int, reason: str) -> None:
        row = self.rows[index]
        self.lost[reason] += 1
        self.lost_tokens += row.tokens
        row.status, row.tokens = "waiting", 0

    def give_back(self, owner: str, index: int, attempt: int, blame: str) -> None:
        row = self.rows[index]
        if row.status != "leased" or row.attempt != attempt or row.owner != owner:
            return
        reasons = {"sample": "broken_sample", "suspect": "no_answer", "nobody": "given_back"}
        self.fail(index, blame, reasons[blame])

    def fail(self, index: int, blame: str, reason: str) -> None:
        row = self.rows[index]
        row.failures += blame != "nobody"
        row.is_suspect |= blame == "suspect"
        is_its_own = blame == "sample" or (blame == "suspect" and row.is_alone)
        if is_its_own and row.failures >= self.rules.max_attempts:
            row.status = "quarantined"
        else:
            self.lose(index, reason)

    def leave(self, owner: str, reason: str = "member_lost") -> None:
        for index in self.with_status("leased"):
            if self.rows[index].owner == owner and reason == "member_left":
                self.lose(index, reason)
            elif self.rows[index].owner == owner:
                self.fail(index, "suspect", reason)
        self.serving.pop(owner, None)
        self.free()

    def lapse(self, now: float) -> None:
        for index in self.with_status("leased"):
            if self.rows[index].deadline <= now:
                self.fail(index, "suspect", "lease_lapsed")

    def serve(self, owner: str, version: int) -> None:
        if owner in self.serving:
            self.serving[owner] = max(version, self.serving[owner])
            self.free()

    def free(self) -> None:
        served = [version for version in self.serving.values() if version >= 0]
        if served:
            self.freed = max(self.freed, min(*served, self.version))

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
        self.free()

    def rewind(self, step: int) -> None:
        for index in self.with_status("taken"):
            self.rows[index].status = "ready"
        if step == self.version:
            return
        for index in self.with_status(*DONE):
            if self.rows[index].step > step:
                self.lose(index, "rewound")
        for index in self.with_status("leased"):
            self.lose(index, "rewound")
        self.version, self.freed = step, min(self.freed, step)
        self.history += 1
        self.serving = dict.fromkeys(self.serving, -1)
        room = self.rules.slots - self.ahead()
        for place, index in enumerate(self.with_status(*PENDING)):
            row = self.rows[index]
            if row.status == "ready" and (place >= room or row.newest > step):
                self.lose(index, "rewound")
