"""Requests of every member: to join, to count as alive, to leave."""

from typing import Annotated

from pydantic import Field

from broker.protocol.request import ANYONE, MEMBERS, REASON_LENGTH, Done, MemberRequest, Role
from common.types import Count, Identifier, Record
from common.wire import PROTOCOL_VERSION

GAUGE_NAME_LENGTH, MAX_GAUGES = 80, 256
Gauges = Annotated[
    dict[
        Annotated[str, Field(max_length=GAUGE_NAME_LENGTH)],
        Annotated[float, Field(allow_inf_nan=False)],
    ],
    Field(max_length=MAX_GAUGES),
]
DETAIL_LENGTH = 400
Details = Annotated[  # host, pid, the engine's URL: for people
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=DETAIL_LENGTH)]],
    Field(max_length=16),
]
Versions = Annotated[  # versions of the code, of Python and of packages, by name
    dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=80)]],
    Field(max_length=32),
]
Ranks = Annotated[int, Field(gt=0, le=1024)]  # processes of one rollout server in a push group


class Welcome(Record):
    run_id: Identifier
    protocol_version: int
    groups_per_step: int
    max_staleness: int
    total_steps: int
    heartbeat_s: float  # seconds between a member's heartbeats
    max_frame_bytes: int  # larger messages end the connection


class Hello(MemberRequest[Welcome], senders=ANYONE):
    """First message of a member; also its rebirth after a restart (new incarnation)."""

    role: Annotated[Role, Field(strict=False)]
    protocol_version: Count = PROTOCOL_VERSION
    ranks: Ranks = 1
    details: Details = Field(default_factory=dict)
    versions: Versions = Field(default_factory=dict)  # empty means: not to be compared


class Heartbeat(MemberRequest[Done], senders=MEMBERS, needs_store=False):
    """A sign of life every few seconds, with what the member would show on a dashboard."""

    ranks: Ranks = 1  # as in the hello, for a broker that has restarted since
    versions: Versions = Field(default_factory=dict)  # as in the hello, for the same reason
    gauges: Gauges = Field(default_factory=dict)


class Goodbye(MemberRequest[Done], senders=ANYONE):
    """A member that leaves; its leases are given back.

    `failure` says what ended it; what was under way then may be the cause. Empty means that it
    leaves in good order.
    """

    failure: str = Field("", max_length=REASON_LENGTH)
