"""The right to ask: a key stands for a role, and a request says which roles may send it. Pure.

A broker without keys (by hand, on loopback) cannot tell who asks: there a client may claim any
role, and only what a member said in its hello binds it.
"""

from broker.ledger.refusal import Refusal
from broker.protocol import REQUESTS, MemberRequest, Request, Role
from broker.service.membership import Member
from common.types import Record


def check_right(kind: str, role: Role | None) -> None:
    """Check that a sender may ask for that, before its request is even read.

    Args:
        kind: the request's name; one that does not exist is not refused here.
        role: of the sender's key; None means that the broker has no keys.

    Raises:
        Refusal: wrong_role.
    """
    if role is not None and kind in REQUESTS and role not in REQUESTS[kind].senders:
        needed = _either(REQUESTS[kind])
        raise Refusal("wrong_role", f"{kind} is for a {needed}, and this key is {_a(role)}'s")


def check_same(told: Role, role: Role | None) -> None:
    """Check that a member is what its key says. Raises Refusal: wrong_role."""
    if role is not None and told is not role:
        raise Refusal(
            "wrong_role",
            f"{_a(told)} needs {_a(told)}'s key, and this key is {_a(role)}'s. Fix: copy the file "
            "of broker.keys that is meant for this process",
        )


def needs_membership(request: Request[Record]) -> bool:
    """Whether the sender of a request must be a member; observers are none."""
    return isinstance(request, MemberRequest) and Role.OBSERVER not in request.senders


def check_befits(request: Request[Record], member: Member) -> None:
    """Check that a request is for members of that role. Raises Refusal: wrong_role."""
    if member.role not in request.senders:
        name = type(request).__name__
        raise Refusal("wrong_role", f"{name} is for a {_either(type(request))}, not {member.role}")


def _either(kind: type[Request[Record]]) -> str:
    return " or a ".join(sorted(kind.senders))


def _a(role: Role) -> str:
    return f"an {role.value}" if role is Role.OBSERVER else f"a {role.value}"
