"""Requests that read: a run's status, and the images of its dataset."""

from typing import Annotated

from pydantic import Field

from broker.protocol.members import Gauges
from broker.protocol.request import ANYONE, MEMBERS, Request, Role
from common.types import Record


class ImageBytes(Record):
    content: bytes


class GetImage(Request[ImageBytes], senders=MEMBERS, needs_store=False):
    """The file behind a digest of the dataset, for machines without the dataset folder."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class MemberStatus(Record):
    member_id: str
    role: Annotated[Role, Field(strict=False)]
    silent_s: float
    acknowledged_version: int
    gauges: Gauges
    details: dict[str, str]


class DataStatus(Record):
    """What became of the data set's rows, and what is tried again now."""

    rows: int = 0  # in the file, refused ones included
    refused_rows: int = 0  # when it was read
    quarantined_samples: int = 0  # different samples, given up by rollout or learner
    first: tuple[str, ...] = ()  # why the first few were refused or given up
    left_over_groups: int = 0  # too few for one more step
    all_groups: int = 0  # samples x epochs
    given_back_groups: int = 0  # leases that servers gave back when they left in good order
    retried_groups: int = 0  # groups that have failed and are to be done again
    failed_attempts: int = 0  # since the run began; a group may have several
    last_failure: str = ""  # the sample that failed last, and why
    ended_because: str = ""  # the fault of the data that ended the run; empty means none


class Status(Record):
    run_id: str
    version: int  # the learner's
    history: int
    committed: int  # newest step that a checkpoint holds
    total_steps: int
    finished: bool
    counts: dict[str, int]  # the ledger's accounts: issued, trained, expired, waiting, ...
    expired_by_reason: dict[str, int]
    trained_lengths: dict[str, int]  # trajectories by the smallest power of two >= their tokens
    expired_lengths: dict[str, int]  # trajectories submitted and not trained, by the same powers
    max_staleness_seen: int
    slots_used: int
    slots: int
    storage: dict[str, float]  # figures of the store: bytes held, journal records, ...
    members: tuple[MemberStatus, ...]
    lost: dict[str, float] = Field(default_factory=dict)  # seconds of silence of members that left
    store_failure: str = ""  # why nothing is leased or taken in; empty means all is well
    seconds: float = 0.0  # how long this run has lasted, over all lives of its broker
    data: DataStatus = DataStatus()


class GetStatus(Request[Status], senders=ANYONE, needs_store=False):
    """Everything that a dashboard shows."""
