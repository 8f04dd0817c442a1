"""Requests of rollout servers: leases, a place for their groups, news of the weights."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from broker.protocol.request import ROLLOUT, Done, HeldRequest, MemberRequest, Reason, Refused
from common.types import Count, GroupLease, Identifier, LongCount, Record, WeightUpdate
from common.wire import Limits


class Leases(Record):
    leases: tuple[GroupLease, ...]
    finished: bool = False


class LeaseRequest(HeldRequest[Leases], senders=ROLLOUT):
    """A rollout server wants work. Held until there is some."""

    max_groups: int = Field(gt=0, le=1024)
    history: Count  # history of the weights that its engine generates with now
    serving_version: Count  # version of the weights that its engine generates with now


class Verdict(StrEnum):
    """What became of a submitted group."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # this very attempt was accepted before
    FENCED = "fenced"  # its lease had lapsed or been given to a later attempt
    STALE = "stale"  # older than max_staleness allows; the sample is issued again


MAX_TOGETHER = 64  # groups in one message


class Submitted(Record):
    """What became of each group, in the order in which they came."""

    outcomes: tuple[Annotated[Verdict, Field(strict=False)] | Refused, ...]


_GROUPS_ARE_BYTES = Limits(2**62, MAX_TOGETHER, 16, 200)


class SubmitGroups(MemberRequest[Submitted], senders=ROLLOUT, limits=_GROUPS_ARE_BYTES):
    """Generated groups, each judged by itself. Their bytes go on to disk and learner as they came.

    A server sends those together that are there together.
    """

    attached: ClassVar[str] = "groups"
    groups: tuple[bytes, ...] = Field(min_length=1, max_length=MAX_TOGETHER)  # record batches


class Blame(StrEnum):
    """Why an attempt at a sample came to nothing; see `broker.ledger.attempts`."""

    SAMPLE = "sample"  # the engine's answer to this very request was an error, or useless
    SUSPECT = "suspect"  # no answer: the engine died or hung; any sample under way may be why
    NOBODY = "nobody"  # cut short by a pause, or its steps were undone


class GiveBack(MemberRequest[Done], senders=ROLLOUT):
    """A lease that cannot be fulfilled. `blame` says whether it counts towards quarantine."""

    group_id: Identifier
    attempt: LongCount
    reason: Reason
    blame: Annotated[Blame, Field(strict=False)]


class Announcement(Record):
    serial: int
    update: WeightUpdate | None
    finished: bool = False


class WatchWeights(HeldRequest[Announcement], senders=ROLLOUT, needs_store=False):
    """A rollout server asks for an announcement newer than what it has seen."""

    seen_serial: LongCount  # serial of the newest announcement that it knows; 0 means none yet


class AckWeights(MemberRequest[Done], senders=ROLLOUT):
    """A rollout server serves `version` from now on."""

    history: Count
    version: Count
    is_pinned: bool = False  # it keeps a copy of these weights beside those of later pushes
