"""What a run's journal tells of its rollout side: generations, busy servers, served weights."""

import itertools
import mmap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.ledger.commands import COMMANDS
from broker.ledger.entry import Receipt
from broker.protocol import Role
from broker.storage.frames import Record, read_records
from broker.storage.recovery import arguments_of
from common.journal_file import JOURNAL


@dataclass(frozen=True)
class Generation:
    """One group that was leased and submitted."""

    server: str
    begin_s: float  # on the broker's clock, as all seconds here
    end_s: float
    in_flight: float  # mean number of groups on its server meanwhile, itself included
    lengths: tuple[int, ...]  # response tokens
    prompt_tokens: int


@dataclass
class JournalFacts:
    generations: list[Generation] = field(default_factory=list)
    taken_s: dict[int, float] = field(default_factory=dict)  # seconds by step
    acknowledged_s: dict[int, float] = field(default_factory=dict)
    served_s: dict[int, float] = field(default_factory=dict)  # by version, at the last server
    busy: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # spans by server
    lives: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    expired: int = 0  # groups whose lease came to nothing
    end_s: float = 0.0

    def busy_share(self, begin_s: float, end_s: float) -> float | None:
        """Share of the servers' time in which they were busy; None means no server."""
        alive_s = self.alive_s(begin_s, end_s)
        return _overlap(self.busy, begin_s, end_s) / alive_s if alive_s > 0 else None

    def alive_s(self, begin_s: float, end_s: float) -> float:
        """Seconds that servers were there, of all of them together."""
        return _overlap(self.lives, begin_s, end_s)


def read_journal(run: Path) -> JournalFacts | None:
    """Read the journal of a run; None means that the run has kept none."""
    path = run / "journal" / JOURNAL
    return facts_of(journal_records(path)) if path.is_file() else None


def journal_records(path: Path) -> Iterator[Record]:
    """Read a journal record by record, without holding it in memory.

    Raises:
        CorruptJournal: it is damaged before its end.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # nothing can be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from read_records(content)


def facts_of(records: Iterable[Record]) -> JournalFacts:
    reader = _Reader()
    for record in records:
        reader.read(record)
    return reader.close()


class CommandReader:
    """Reads records by a method for each command, `_on_NAME(told, outcome)`; others are left out.

    Where told is what the ledger was called with, outcome what it gave.
    """

    def __init_subclass__(cls) -> None:
        read = {name.removeprefix("_on_") for name in vars(cls) if name.startswith("_on_")}
        assert read <= COMMANDS.keys(), "a command was renamed"

    def dispatch(self, record: Record) -> None:
        """Read a record. Raises CorruptJournal: it is of another version."""
        handler = getattr(self, f"_on_{record.command}", None)
        if handler is not None:
            handler(arguments_of(record), record.outcome)


class _Reader(CommandReader):
    def __init__(self) -> None:
        self._facts = JournalFacts()
        self._leases: dict[tuple[str, int], tuple[str, float, float]] = {}
        self._held: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self._since: dict[str, float] = {}  # seconds since which a server has been busy
        self._crowd: dict[str, tuple[float, float]] = {}  # groups * seconds, up to when
        self._joined: dict[str, float] = {}
        self._now = 0.0

    def read(self, record: Record) -> None:
        self._now = record.seconds
        self.dispatch(record)

    def close(self) -> JournalFacts:
        for server in list(self._joined):
            self._end_life(server)
        self._facts.end_s = self._now
        return self._facts

    # ---- calls of the ledger ---------------------------------------------------------------------
    def _on_join(self, told: Mapping[str, Any], outcome: Any) -> None:
        server, _ = told["owner"]
        if told["role"] is Role.ROLLOUT:
            self._end_life(server)
            self._joined[server] = self._now

    def _on_leave(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._end_life(told["owner"][0])

    def _on_lease(self, told: Mapping[str, Any], outcome: Any) -> None:
        server = told["owner"][0]
        for group_id, attempt in outcome or ():
            if (group_id, attempt) in self._leases:
                continue  # the learner asked for this step again
            crowd = self._count(server)
            self._leases[group_id, attempt] = (server, self._now, crowd)
            self._since.setdefault(server, self._now)
            self._held[server].add((group_id, attempt))

    def _on_submit(self, told: Mapping[str, Any], outcome: Any) -> None:
        key = (told["group_id"], told["attempt"])
        lease = self._leases.get(key)
        if lease is None:
            return
        server, begin_s, crowd = lease
        elapsed = self._now - begin_s
        crowded = self._count(server) - crowd
        self._end_lease(key)
        if outcome == "accepted" and elapsed > 0:
            receipt: Receipt = told["receipt"]
            self._facts.generations.append(
                Generation(
                    server,
                    begin_s,
                    self._now,
                    crowded / elapsed,
                    receipt.lengths,
                    receipt.num_prompt_tokens,
                )
            )

    def _on_give_back(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._expire((told["group_id"], told["attempt"]))

    def _on_lapse(self, told: Mapping[str, Any], outcome: Any) -> None:
        for group_id in outcome or ():
            for key in [key for key in self._leases if key[0] == group_id]:
                self._expire(key)

    def _on_rewind(self, told: Mapping[str, Any], outcome: Any) -> None:
        step = told["step"]
        newest = max(self._facts.acknowledged_s, default=0)
        if step < newest:
            self._expire_all()
            for times in (self._facts.acknowledged_s, self._facts.taken_s, self._facts.served_s):
                for later in [number for number in times if number > step]:
                    del times[later]

    def _on_doubt(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._expire_all()

    def _on_serve(self, told: Mapping[str, Any], outcome: Any) -> None:
        self._facts.served_s[told["version"]] = self._now

    def _on_take(self, told: Mapping[str, Any], outcome: Any) -> None:
        if outcome:
            self._facts.taken_s.setdefault(told["step"], self._now)

    def _on_acknowledge(self, told: Mapping[str, Any], outcome: Any) -> None:
        if outcome is True:
            self._facts.acknowledged_s[told["step"]] = self._now

    # ---- inside ----------------------------------------------------------------------------------
    def _count(self, server: str) -> float:
        """Groups in flight times seconds on this server, up to now."""
        total, since = self._crowd.get(server, (0.0, self._now))
        total += len(self._held[server]) * (self._now - since)
        self._crowd[server] = (total, self._now)
        return total

    def _end_lease(self, key: tuple[str, int]) -> None:
        server, _, _ = self._leases.pop(key)
        self._count(server)
        self._held[server].discard(key)
        if not self._held[server] and server in self._since:
            span = (self._since.pop(server), self._now)
            self._facts.busy.setdefault(server, []).append(span)

    def _expire(self, key: tuple[str, int]) -> None:
        if key in self._leases:
            self._facts.expired += 1
            self._end_lease(key)

    def _expire_all(self) -> None:
        for key in list(self._leases):
            self._expire(key)

    def _end_life(self, server: str) -> None:
        for key in list(self._held[server]):
            self._expire(key)
        if server in self._joined:
            span = (self._joined.pop(server), self._now)
            self._facts.lives.setdefault(server, []).append(span)


def _overlap(
    spans_of: Mapping[str, Iterable[tuple[float, float]]], begin_s: float, end_s: float
) -> float:
    """Seconds of all spans that lie between two moments."""
    spans = itertools.chain.from_iterable(spans_of.values())
    return sum(max(0.0, min(end, end_s) - max(begin, begin_s)) for begin, end in spans)
