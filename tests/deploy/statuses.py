"""What the broker says of its members, as views and supervisor get it."""

from broker.protocol import MemberStatus, Role


def member(
    name: str, role: Role = Role.ROLLOUT, version: int = 0, silent_s: float = 0.0, **gauges: float
) -> MemberStatus:
    return MemberStatus(
        member_id=name,
        role=role,
        silent_s=silent_s,
        acknowledged_version=version,
        gauges=gauges,
        details={},
    )
