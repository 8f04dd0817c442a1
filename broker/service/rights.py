"""Who may ask what: a key stands for a role, and a role has its requests. Pure.

A broker without keys (by hand, on loopback) cannot tell who asks: there everybody may be anything,
and only what a member said in its hello binds it.
"""

from broker import protocol as p
from broker.ledger.refusal import Refusal
from broker.protocol import Role

FOR_ANYONE = (p.Hello, p.Goodbye, p.GetStatus)  # also for those who are no members
FOR_MEMBERS = (p.Heartbeat, p.GetImage)
FOR_ROLLOUT = (
    p.LeaseRequest, p.SubmitGroups, p.GiveBack, p.WatchWeights, p.AckWeights, p.LeaseAnswers,
    p.SubmitAnswers,
)  # fmt: skip
FOR_LEARNER = (
    p.TakeBatch, p.AckBatch, p.Resume, p.CommitStep, p.AnnounceWeights, p.WatchMembers, p.Finish,
    p.OrderMeasurement, p.ReadMeasurement, p.DropMeasurement,
)  # fmt: skip
_MAY_ASK: dict[str, frozenset[Role]] = {
    kind.__name__: frozenset(roles)
    for kinds, roles in (
        (FOR_ANYONE, Role),
        (FOR_MEMBERS, (Role.ROLLOUT, Role.LEARNER)),
        (FOR_ROLLOUT, (Role.ROLLOUT,)),
        (FOR_LEARNER, (Role.LEARNER,)),
    )
    for kind in kinds
}


def check_right(kind: str, role: Role | None) -> None:
    """Before a request is even read: may whoever sends it ask for that?

    Args:
        kind: the request's name; one that does not exist is not refused here.
        role: of the sender's key; None: the broker has no keys.

    Raises:
        Refusal: wrong_role.
    """
    if role is not None and role not in _MAY_ASK.get(kind, Role):
        needed = " or a ".join(sorted(_MAY_ASK[kind]))
        raise Refusal("wrong_role", f"{kind} is for a {needed}, and this key is {_a(role)}'s")


def check_same(told: Role, role: Role | None) -> None:
    """Is a member what its key says? Raises Refusal: wrong_role."""
    if role is not None and told is not role:
        raise Refusal(
            "wrong_role",
            f"{_a(told)} needs {_a(told)}'s key, and this key is {_a(role)}'s. Fix: copy the file "
            "of broker.keys that is meant for this process",
        )


def _a(role: Role) -> str:
    return f"an {role.value}" if role is Role.OBSERVER else f"a {role.value}"
