"""The members that are alive. Pure: time is an argument (seconds on any one steady clock)."""

from collections import OrderedDict
from dataclasses import dataclass, field

from broker.ledger.entry import Owner
from broker.ledger.refusal import Refusal
from broker.protocol import Gauges, Hello, Role

MAX_MEMBERS = 4096


@dataclass
class Member:
    """One life of one member, and what it has said of itself."""

    member_id: str
    role: Role
    incarnation: int
    details: dict[str, str]
    last_seen_s: float
    ranks: int  # processes of its engine that join a push group; 0: not known yet
    gauges: Gauges = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # empty means that it has not told them

    @property
    def owner(self) -> Owner:
        return (self.member_id, self.incarnation)


class Membership:
    """Members by id, the longest silent first."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._members: OrderedDict[str, Member] = OrderedDict()
        self._lost: OrderedDict[str, float] = OrderedDict()  # when they were last seen
        self._latest: OrderedDict[str, int] = OrderedDict()  # incarnation of the last life, by name
        self._followed: OrderedDict[Owner, None] = OrderedDict()  # lives that later ones followed

    def __len__(self) -> int:
        return len(self._members)

    @property
    def heartbeat_s(self) -> float:
        """Seconds between heartbeats, told to members; some may be lost before one is given up."""
        return min(2.0, self._timeout_s / 4)

    def join(self, hello: Hello, now: float) -> Member | None:
        """Note a hello. Returns the earlier life that it replaces, if there is one."""
        if hello.owner in self._followed:
            raise Refusal("superseded", f"another process took the name {hello.member_id} since")
        known = self._members.get(hello.member_id)
        if known is not None and known.incarnation == hello.incarnation:
            known.versions = hello.versions  # of a member that was restored after a restart
            self._touch(known, now)
            return None
        is_learner = hello.role is Role.LEARNER  # no other member may keep it out
        if known is None and len(self._members) >= MAX_MEMBERS and not is_learner:
            raise Refusal("too_many", f"there are {MAX_MEMBERS} members already")
        if known is not None and known.role is not hello.role and not is_learner:
            raise Refusal("wrong_role", f"{hello.member_id} is a {known.role} already")
        self._lost.pop(hello.member_id, None)
        self.note_life(hello.owner)
        self._members[hello.member_id] = Member(
            hello.member_id,
            hello.role,
            hello.incarnation,
            hello.details,
            now,
            hello.ranks,
            versions=hello.versions,
        )
        self._members.move_to_end(hello.member_id)
        return known

    def restore(self, owner: Owner, role: Role, now: float) -> None:
        """Take in a member that a restarted broker knows of: it has a while to speak up again."""
        member_id, incarnation = owner
        self.note_life(owner)
        self._members[member_id] = Member(member_id, role, incarnation, {}, now, ranks=0)

    def note_life(self, owner: Owner) -> None:
        """The latest life of a name is this one: a late hello of an earlier one counts no more."""
        member_id, incarnation = owner
        latest = self._latest.get(member_id, incarnation)
        if latest != incarnation:
            self._followed[member_id, latest] = None
        self._latest[member_id] = incarnation
        self._latest.move_to_end(member_id)
        for kept in (self._latest, self._followed):
            while len(kept) > MAX_MEMBERS:
                kept.popitem(last=False)

    def seen(self, member_id: str, incarnation: int, now: float) -> Member:
        """Find the member behind a request, which proves it alive.

        Raises:
            Refusal: not a member (any more), or an earlier life of one.
        """
        member = self._members.get(member_id)
        if member is None:
            raise Refusal("unknown_member", f"{member_id} is not a member: say hello first")
        if member.incarnation != incarnation:
            raise Refusal("superseded", f"another process took the name {member_id} since")
        self._touch(member, now)
        return member

    def note(self, member_id: str, name: str, value: str) -> None:
        """Add a line to what people are shown of a member."""
        member = self._members[member_id]
        member.details = {**member.details, name: value}

    def find(self, owner: Owner) -> Member | None:
        """Find the member that lives this life, without taking it as a sign of life."""
        member = self._members.get(owner[0])
        return member if member is not None and member.owner == owner else None

    def leave(self, owner: Owner) -> Member | None:
        """Forget a member, and return it; None means that this life is over already."""
        self._lost.pop(owner[0], None)
        return self._members.pop(owner[0]) if self.find(owner) else None

    def lapse(self, now: float) -> list[Member]:
        """Forget and return the members that have been silent for too long."""
        lost: list[Member] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            lost.append(self._members.popitem(last=False)[1])
            self._lost[lost[-1].member_id] = lost[-1].last_seen_s
            while len(self._lost) > MAX_MEMBERS:
                self._lost.popitem(last=False)
        return lost

    def lost(self, now: float) -> dict[str, float]:
        """Seconds of silence of each member that counts as gone by it and has not come back."""
        return {member_id: now - seen_s for member_id, seen_s in self._lost.items()}

    def next_deadline(self) -> float | None:
        """The time at which the longest silent member will count as gone."""
        for member in self._members.values():
            return member.last_seen_s + self._timeout_s
        return None

    def all(self) -> list[Member]:
        return list(self._members.values())

    def _touch(self, member: Member, now: float) -> None:
        member.last_seen_s = now
        self._members.move_to_end(member.member_id)
