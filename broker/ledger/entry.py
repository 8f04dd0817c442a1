"""Records of the ledger: what it is told (Rules, Receipt) and what it keeps (Entry, Step)."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from common.config import RunConfig
from common.group import Group
from common.source import Assignment
from common.types import GroupLease

Owner = tuple[str, int]  # (member id, incarnation): one life of one process


@dataclass(frozen=True)
class Rules:
    """Rules of a run that decide what may be leased and when a sample is given up."""

    groups_per_step: int
    max_staleness: int
    trajectories_per_sample: int
    lease_s: float
    max_attempts: int = 3  # failed attempts at one sample until it is quarantined
    max_steps: int | None = None
    max_leases: int = 256  # groups that one member may hold
    first_rest_s: float = 1.0  # seconds that a group rests after one failure; doubles each time

    @property
    def slots(self) -> int:
        """Number of groups that may be between lease and freed slot."""
        return (self.max_staleness + 1) * self.groups_per_step

    @classmethod
    def of(cls, config: RunConfig) -> "Rules":
        return cls(
            groups_per_step=config.learner.groups_per_step,
            max_staleness=config.broker.max_staleness,
            trajectories_per_sample=config.rollout.trajectories_per_sample,
            lease_s=config.broker.lease_s,
            max_attempts=config.broker.max_attempts,
            max_steps=config.learner.max_steps,
            max_leases=config.broker.max_leases,
        )


def lease_of(entry: "Entry", rules: Rules) -> GroupLease:
    """The message that tells a rollout server of its lease."""
    return GroupLease(
        group_id=entry.group_id,
        attempt=entry.attempt,
        sample=entry.assignment.sample,
        num_trajectories=rules.trajectories_per_sample,
        sampling_seed=entry.assignment.sampling_seed,
        lease_s=rules.lease_s,
        alone=entry.is_alone,
    )


class Receipt(NamedTuple):
    """Part of a submitted group that the ledger keeps; the trajectories lie in the store."""

    oldest_version: int  # oldest weights behind any token, or any cache entry that it came from
    newest_version: int
    num_prompt_tokens: int
    lengths: tuple[int, ...]  # response tokens of each trajectory

    @classmethod
    def of(cls, group: Group) -> "Receipt":
        return cls(
            group.responses.oldest_version,
            group.responses.newest_version,
            group.num_prompt_tokens,
            tuple(group.responses.lengths),
        )


class State(StrEnum):
    """Where a group stands."""

    WAITING = "waiting"  # came back; will be leased again
    LEASED = "leased"  # a rollout server generates it
    READY = "ready"  # submitted
    TAKEN = "taken"  # in the learner's batch
    DONE = "done"  # trained (or refused by the learner); a later rewind may undo it
    QUARANTINED = "quarantined"  # broken: no step will train it


@dataclass(eq=False, slots=True)
class Entry:
    """One issued group and what has become of it."""

    order: int  # place in the source
    assignment: Assignment
    state: State = State.WAITING
    attempt: int = -1  # the current or last one
    failures: int = 0  # attempts that count (see broker.ledger.attempts)
    owner: Owner | None = None  # the lease's holder while LEASED
    request_id: bytes = b""  # the request that was granted; sent again, it gets the same leases
    deadline: float = 0.0  # the lease lapses then
    receipt: Receipt | None = None  # there from READY on
    returns: int = 0  # attempts since the last success, with those that do not count
    is_suspect: bool = False  # was under way when an engine died, or did not answer
    is_alone: bool = False  # its server generates nothing else during the current or last lease
    rests_until: float = 0.0  # no lease before
    last_failure: str = ""  # why its last attempt failed, in words

    @property
    def group_id(self) -> str:
        return self.assignment.group_id

    @property
    def num_tokens(self) -> int:
        return sum(self.receipt.lengths) if self.receipt else 0


@dataclass(eq=False)
class Step:
    """The groups that one step trains on, split over the learner's ranks."""

    number: int
    batch_id: int  # number of this batch in the run: a step that is taken anew is another batch
    entries: list[Entry]
    shards: tuple[tuple[int, ...], ...]  # indices of entries, by rank
    holders: dict[int, Owner] = field(default_factory=dict)  # last taker of each rank's shard
    acknowledged: set[int] = field(default_factory=set)  # ranks that have trained their shards
    refused: dict[str, str] = field(default_factory=dict)  # group id -> why it was not trained on

    def shard(self, rank: int) -> tuple[Entry, ...]:
        return tuple(self.entries[index] for index in self.shards[rank])


class Shard(NamedTuple):
    """One rank's part of a step."""

    step: int
    entries: tuple[Entry, ...]
    batch_id: int = 0
    exhausted: bool = False  # there will be no such step
