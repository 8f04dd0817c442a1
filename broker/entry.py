"""What the ledger is told (Rules) and what it keeps (Entry, Step)."""

from dataclasses import dataclass
from enum import StrEnum

from broker.membership import Owner
from broker.source import Assignment
from common.config import RunConfig
from common.types import Group


@dataclass(frozen=True)
class Rules:
    groups_per_step: int
    max_staleness: int
    trajectories_per_sample: int
    lease_s: float
    max_attempts: int = 3  # broken attempts at one sample until it is quarantined
    max_steps: int | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Rules":
        return cls(
            groups_per_step=config.learner.groups_per_step,
            max_staleness=config.broker.max_staleness,
            trajectories_per_sample=config.rollout.trajectories_per_sample,
            lease_s=config.broker.lease_s,
            max_attempts=config.broker.max_attempts,
            max_steps=config.learner.max_steps,
        )


class State(StrEnum):
    WAITING = "waiting"  # came back; will be leased again
    LEASED = "leased"  # a rollout server generates it
    READY = "ready"  # submitted
    TAKEN = "taken"  # in the learner's batch
    DONE = "done"  # trained (or refused by the learner); its slot is not free yet


@dataclass(eq=False)
class Entry:
    """One issued group that holds a slot."""

    order: int  # place in the source
    assignment: Assignment
    state: State = State.WAITING
    attempt: int = -1  # the current or last one
    failures: int = 0  # attempts that blamed the sample
    owner: Owner | None = None
    deadline: float = 0.0
    group: Group | None = None  # from READY to DONE

    @property
    def group_id(self) -> str:
        return self.assignment.group_id


@dataclass
class Step:
    """The groups that one step trains on."""

    number: int
    entries: list[Entry]
    holder: Owner
