"""The messages between the broker and its clients: one request, one reply.

A request may be sent again after a time-out: every one of them is idempotent or fenced. Times are
durations in seconds; no two machines need agree on the clock.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from common.types import (
    Count,
    GroupLease,
    Identifier,
    Int32Array,
    LongCount,
    MemberId,
    Record,
    Sample,
    WeightUpdate,
)
from common.wire import PROTOCOL_VERSION, Limits, Registry

GAUGE_NAME_LENGTH, MAX_GAUGES = 80, 256
Gauges = Annotated[
    dict[
        Annotated[str, Field(max_length=GAUGE_NAME_LENGTH)],
        Annotated[float, Field(allow_inf_nan=False)],
    ],
    Field(max_length=MAX_GAUGES),
]
DETAIL_LENGTH = 400
Details = Annotated[  # host, pid, engine's URL: for people
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=DETAIL_LENGTH)]],
    Field(max_length=16),
]
REASON_LENGTH = 500
Reason = Annotated[str, Field(max_length=REASON_LENGTH)]
Versions = Annotated[  # by name: of the code, of Python, of packages
    dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=80)]],
    Field(max_length=32),
]
Ranks = Annotated[int, Field(gt=0, le=1024)]  # of one rollout server in a push group
MAX_TOGETHER = 64  # groups in one message
WaitS = Annotated[float, Field(ge=0, le=60)]  # how long the broker may hold a request (long poll)


class Role(StrEnum):
    ROLLOUT = "rollout"
    LEARNER = "learner"
    OBSERVER = "observer"  # reads the status, owns nothing


class Verdict(StrEnum):
    """What became of a submitted group."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # this very attempt was accepted before
    FENCED = "fenced"  # its lease had lapsed or been given to a later attempt
    STALE = "stale"  # older than max_staleness allows; the sample is issued again


class EvaluationView(StrEnum):
    """Of which picture a held-out question is asked."""

    FULL = "full"  # as the student sees it
    CROP = "crop"  # the evidence


class Blame(StrEnum):
    """Why an attempt at a sample came to nothing; see `broker.ledger.attempts`."""

    SAMPLE = "sample"  # the engine's answer to this very request was an error, or useless
    SUSPECT = "suspect"  # no answer: the engine died or hung; any sample under way may be why
    NOBODY = "nobody"  # cut short by a pause, or its steps were undone


# ---- requests ------------------------------------------------------------------------------------
class Hello(Record):
    """First message of a member; also its rebirth after a restart (new incarnation)."""

    member_id: MemberId
    role: Annotated[Role, Field(strict=False)]
    incarnation: LongCount  # random; tells a restarted process from its predecessor
    protocol_version: Count = PROTOCOL_VERSION
    ranks: Ranks = 1
    details: Details = Field(default_factory=dict)
    versions: Versions = Field(default_factory=dict)  # empty: not to be compared


class Heartbeat(Record):
    """Every few seconds, with what the member would show on a dashboard."""

    member_id: MemberId
    incarnation: LongCount
    ranks: Ranks = 1  # again, for a broker that has restarted
    versions: Versions = Field(default_factory=dict)  # again, likewise
    gauges: Gauges = Field(default_factory=dict)


class Goodbye(Record):
    """A member that leaves; its leases are given back.

    `failure` says what ended it; what was under way then may be the cause. Empty: in good order.
    """

    member_id: MemberId
    incarnation: LongCount
    failure: str = Field("", max_length=REASON_LENGTH)


class LeaseRequest(Record):
    """A rollout server wants work. Held until there is some, or `wait_s`."""

    member_id: MemberId
    incarnation: LongCount
    max_groups: int = Field(gt=0, le=1024)
    history: Count  # of the weights that its engine generates with now
    serving_version: Count  # their version
    wait_s: WaitS


class SubmitGroups(Record):
    """Generated groups, each judged by itself. Their bytes go on to disk and learner as they came.

    A server sends those together that are there together.
    """

    attached: ClassVar[str] = "groups"
    member_id: MemberId
    incarnation: LongCount
    groups: tuple[bytes, ...] = Field(min_length=1, max_length=MAX_TOGETHER)  # record batches


class GiveBack(Record):
    """A lease that cannot be fulfilled. `blame` says whether it counts towards quarantine."""

    member_id: MemberId
    incarnation: LongCount
    group_id: Identifier
    attempt: LongCount
    reason: Reason
    blame: Annotated[Blame, Field(strict=False)]


class TakeBatch(Record):
    """A learner rank wants its groups of step `step`; held until all are there, or `wait_s`.

    Asking again for a step that is not acknowledged returns the same groups.
    """

    member_id: MemberId
    incarnation: LongCount
    step: int = Field(ge=1, lt=2**31)  # 1-based; trains version step - 1 into version step
    rank: Count = 0
    world_size: int = Field(1, ge=1, lt=2**31)
    first: Count = 0  # groups to leave out: a large batch comes in several replies
    taking: Count = 0  # of the replies before, where there are any
    wait_s: WaitS


class AckBatch(Record):
    """A rank has trained step `step` on its groups; when all have, the learner's version is `step`.

    `refused` groups were not trained on: the learner's own guard or renderer rejected them.
    """

    member_id: MemberId
    incarnation: LongCount
    step: int = Field(ge=1, lt=2**31)
    taking: Count  # of the batch that it was trained on
    rank: Count = 0
    refused: dict[Identifier, Reason] = Field(default_factory=dict)  # by group id
    wait_s: WaitS = 0.0  # for the other ranks


class Resume(Record):
    """First word of a new learner: it starts at `step`; what was trained later is undone."""

    member_id: MemberId
    incarnation: LongCount
    step: Count


class CommitStep(Record):
    """A checkpoint of `step` is about to be made valid; the reply says that its steps are durable.

    `oldest` is the oldest checkpoint that will be kept: no rewind goes behind it.
    """

    member_id: MemberId
    incarnation: LongCount
    step: Count
    oldest: Count


class AnnounceWeights(Record):
    """The learner is about to push these weights."""

    member_id: MemberId
    incarnation: LongCount
    update: WeightUpdate


class WatchWeights(Record):
    """A rollout server asks for an announcement newer than what it has seen."""

    member_id: MemberId
    incarnation: LongCount
    seen_serial: LongCount  # of the newest announcement that it knows; 0: none yet
    wait_s: WaitS


class AckWeights(Record):
    """A rollout server serves `version` from now on."""

    member_id: MemberId
    incarnation: LongCount
    history: Count
    version: Count
    is_pinned: bool = False  # it keeps a copy of these weights beside those of later pushes


class WatchMembers(Record):
    """The learner asks for the rollout servers, once there are at least `at_least`."""

    member_id: MemberId
    incarnation: LongCount
    at_least: Count
    wait_s: WaitS


class OrderMeasurement(Record):
    """The learner wants held-out samples answered, greedily, by the weights of one version."""

    member_id: MemberId
    incarnation: LongCount
    number: LongCount  # random; the same order again changes nothing
    history: Count
    version: Count
    sample_ids: tuple[Identifier, ...] = Field(min_length=1, max_length=2**16)
    num_urgent: Count = 0  # of the first samples: training waits for their answers
    max_tokens: int = Field(gt=0, lt=2**31)  # of an answer
    is_last: bool = False  # nothing is trained beside it


class ReadMeasurement(Record):
    """Held until there are answers beyond the `seen`, or `is_pinned` is no longer right."""

    member_id: MemberId
    incarnation: LongCount
    number: LongCount
    seen: Count
    is_pinned: bool
    wait_s: WaitS


class DropMeasurement(Record):
    """Nobody waits for its answers any longer."""

    member_id: MemberId
    incarnation: LongCount
    number: LongCount


class LeaseAnswers(Record):
    """A rollout server can answer held-out questions with these weights."""

    member_id: MemberId
    incarnation: LongCount
    history: Count
    serving_version: Count  # of the weights that its engine generates with now
    pinned: tuple[Count, ...] = Field((), max_length=8)  # versions that it has a copy of
    max_items: int = Field(gt=0, le=1024)
    wait_s: WaitS


class Answer(Record):
    """A greedy answer to one item, or why there is none."""

    index: Count
    token_ids: Int32Array  # [T], with the end-of-turn token; [0] with an error
    is_cut: bool = False  # the length limit ended it
    error: Reason = ""  # the sample cannot be asked; empty: it was


class SubmitAnswers(Record):
    member_id: MemberId
    incarnation: LongCount
    number: LongCount
    answers: tuple[Answer, ...] = Field((), max_length=1024)
    given_back: tuple[Count, ...] = Field((), max_length=1024)  # items, not to be answered here


class GetImage(Record):
    """The file behind a digest of the dataset, for machines without the dataset folder."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class GetStatus(Record):
    """Everything that a dashboard shows."""


class Finish(Record):
    """The learner has trained its last step: rollout servers may end."""

    member_id: MemberId
    incarnation: LongCount
    reason: Reason


# ---- replies -------------------------------------------------------------------------------------
class Welcome(Record):
    run_id: Identifier
    protocol_version: int
    groups_per_step: int
    max_staleness: int
    total_steps: int
    num_samples: int
    max_frame_bytes: int  # larger messages end the connection


class Done(Record):
    """Accepted; nothing to say. `finished`: the run is over, drain and end.

    `is_explained`: to a goodbye after a failure: it has quarantined the sample that caused it.
    """

    finished: bool = False
    is_explained: bool = False


class Leases(Record):
    leases: tuple[GroupLease, ...]
    finished: bool = False


class Refused(Record):
    """The request was understood and turned down. `code` is stable, `message` is for people."""

    code: str  # "version_mismatch" | "unknown_member" | "superseded" | "bad_request" | ...
    message: str


class Submitted(Record):
    """What became of each group, in the order in which they came."""

    outcomes: tuple[Annotated[Verdict, Field(strict=False)] | Refused, ...]


class Batch(Record):
    """`num_groups` is 0 when `wait_s` ran out; `exhausted` when the data is used up.

    `groups` are as many as fit into one message, from the first that was asked for.
    """

    attached: ClassVar[str] = "groups"
    step: int
    groups: tuple[bytes, ...]  # record batches (common.group_batch)
    num_groups: int = 0  # of this rank in this step
    taking: int = 0  # which batch this is: the same step taken anew is another one
    exhausted: bool = False


class Acknowledged(Record):
    """`is_complete`: all ranks have acknowledged, the version is `step`."""

    step: int
    is_complete: bool


class Resumed(Record):
    history: int  # announcements name it
    version: int


class Announcement(Record):
    serial: int
    update: WeightUpdate | None
    finished: bool = False


class Members(Record):
    """Live rollout servers, by member id."""

    acknowledged: dict[str, int]  # newest version (-1: none)
    ranks: dict[str, int]  # in a push group; 0: not known yet to a broker that has restarted


class AskedItem(Record):
    """One view of one held-out sample."""

    index: Count  # in its measurement
    sample: Sample
    view: Annotated[EvaluationView, Field(strict=False)]


class AnswerLease(Record):
    """Items of one measurement to be answered with `version`; none when `wait_s` ran out."""

    number: int = 0
    version: int = 0
    max_tokens: int = 0
    is_urgent: bool = False  # the learner stands still until they are answered
    is_last: bool = False  # nothing is trained beside it
    items: tuple[AskedItem, ...] = ()
    finished: bool = False


class MeasurementNews(Record):
    answers: tuple[Answer, ...]  # those that the reader has not seen, some of them
    is_pinned: bool  # a server has a copy of the weights, so that the next push does no harm


class ImageBytes(Record):
    content: bytes


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
    quarantined_samples: int = 0  # different ones, by rollout or learner
    first: tuple[str, ...] = ()  # why, of the first few
    left_over_groups: int = 0  # too few for one more step
    all_groups: int = 0  # samples x epochs
    given_back_groups: int = 0  # leases that servers gave back when they left in good order
    retried_groups: int = 0  # that have failed and are to be done again
    failed_attempts: int = 0  # ever; a group may have several
    last_failure: str = ""  # which sample's and why
    ended_because: str = ""  # the fault of the data that ended the run; empty: none


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
    expired_lengths: dict[str, int]  # the same of those submitted and not trained
    max_staleness_seen: int
    slots_used: int
    slots: int
    storage: dict[str, float]  # figures of the store: bytes held, journal records, ...
    members: tuple[MemberStatus, ...]
    lost: dict[str, float] = Field(default_factory=dict)  # gone by their silence: seconds of it
    store_failure: str = ""  # why nothing is leased or taken in; empty: all is well
    seconds: float = 0.0  # that this run has lasted, over all lives of its broker
    data: DataStatus = DataStatus()


REQUESTS: Registry = {
    message.__name__: message
    for message in (
        Hello, Heartbeat, Goodbye, LeaseRequest, SubmitGroups, GiveBack, TakeBatch, AckBatch,
        Resume, CommitStep, AnnounceWeights, WatchWeights, AckWeights, WatchMembers, GetImage,
        GetStatus, Finish, OrderMeasurement, ReadMeasurement, DropMeasurement, LeaseAnswers,
        SubmitAnswers,
    )
}  # fmt: skip
REPLIES: Registry = {
    message.__name__: message
    for message in (
        Welcome, Done, Leases, Submitted, Batch, Acknowledged, Resumed, Announcement, Members,
        ImageBytes, Status, Refused, AnswerLease, MeasurementNews,
    )
}  # fmt: skip

_SMALL = Limits(max_bytes=64 * 2**10, max_array=16, max_map=512, max_values=64 * 2**10)
LIMITS: dict[str, Limits] = {  # of what clients send, beside broker.max_frame_mib
    **dict.fromkeys(REQUESTS, _SMALL),
    "SubmitGroups": Limits(2**62, MAX_TOGETHER, 16, 200),  # groups are bytes here
    "AckBatch": Limits(16 * 2**20, 16, 2**16, 2**17),  # a reason for each group of a step
    "OrderMeasurement": Limits(16 * 2**20, 2**16, 16, 2**17),  # names of all held-out samples
    "SubmitAnswers": Limits(16 * 2**20, 1024, 16, 2**14),
    "AnnounceWeights": Limits(2**62, 2**16, 2**17, 2**21),  # names and shapes of all tensors
}
