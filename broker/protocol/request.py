"""What every request says of itself: who may send it, what it changes, how large it may be."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field

from common.types import LongCount, MemberId, Record
from common.wire import Limits

REASON_LENGTH = 500
Reason = Annotated[str, Field(max_length=REASON_LENGTH)]
WaitS = Annotated[float, Field(ge=0, le=60)]  # seconds that the broker may hold a request

SMALL = Limits(max_bytes=64 * 2**10, max_array=16, max_map=512, max_values=64 * 2**10)


class Role(StrEnum):
    ROLLOUT = "rollout"
    LEARNER = "learner"
    OBSERVER = "observer"  # reads the status, owns nothing


ROLLOUT = frozenset({Role.ROLLOUT})
LEARNER = frozenset({Role.LEARNER})
MEMBERS = ROLLOUT | LEARNER
ANYONE = frozenset(Role)  # processes that are no members, too

Reply = TypeVar("Reply", bound=Record, covariant=True)


class Request(Record, Generic[Reply]):
    """Base of every message that a client sends.

    A subclass names its reply and describes itself in its first line:

        class GiveBack(MemberRequest[Done], senders=ROLLOUT): ...

    Class arguments:
        senders: roles that may send it. A class without is no request, but a base of some.
        needs_store: whether carrying it out may change what the store keeps. While the store takes
            no data, such a request is refused and the others are answered.
        limits: what a frame of it may hold, beside `broker.max_frame_mib`.
    """

    senders: ClassVar[frozenset[Role]]
    needs_store: ClassVar[bool] = True
    limits: ClassVar[Limits] = SMALL

    def __init_subclass__(
        cls,
        *,
        senders: frozenset[Role] | None = None,
        needs_store: bool = True,
        limits: Limits = SMALL,
        **config: Any,
    ) -> None:
        super().__init_subclass__(**config)
        cls.needs_store, cls.limits = needs_store, limits
        if senders is not None:
            cls.senders = senders
            REQUESTS[cls.__name__] = cls

    @classmethod
    def reply_type(cls) -> type[Reply]:
        """The class in the brackets of this request's base."""
        base: Any = cls.__bases__[0]
        kind: type[Reply]
        (kind,) = base.__pydantic_generic_metadata__["args"]
        return kind


REQUESTS: dict[str, type[Request[Record]]] = {}  # by name, as their classes are made


class MemberRequest(Request[Reply], Generic[Reply]):
    """A request of one life of one member. The client fills in whose, just before it sends it."""

    member_id: MemberId = ""
    incarnation: LongCount = 0  # random; tells a restarted process from its predecessor

    @property
    def owner(self) -> tuple[str, int]:
        """The life that sends it, as the ledger names it."""
        return (self.member_id, self.incarnation)

    def sent_by(self, member_id: str, incarnation: int) -> Self:
        """The same request in the name of this life."""
        return self.model_copy(update={"member_id": member_id, "incarnation": incarnation})


class HeldRequest(MemberRequest[Reply], Generic[Reply]):
    """A request that the broker holds until there is an answer, or `wait_s` is over."""

    wait_s: WaitS


class Done(Record):
    """Accepted; there is nothing to say but whether the run goes on."""

    finished: bool = False  # the run is over: drain and end
    is_explained: bool = False  # a goodbye's failure has quarantined the sample that caused it


class Refused(Record):
    """The request was understood and turned down. `code` is stable, `message` is for people."""

    code: str  # "version_mismatch" | "unknown_member" | "superseded" | "bad_request" | ...
    message: str
