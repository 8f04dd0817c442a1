"""Requests in, replies out: membership, ledger and long polls behind one door. No I/O, no clock.

`handle`, `tick` and `finish` return the replies to send. Whatever a request makes possible for a
held one is answered in the same call, so nothing is ever polled for.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from broker import protocol as p
from broker.announcement import Announcements
from broker.ledger import Ledger
from broker.membership import Member, Membership, Owner
from broker.polls import Answer, Empty, Poll, Polls
from broker.refusal import Refusal
from common.wire import PROTOCOL_VERSION

logger = logging.getLogger(__name__)
_MAX_REMEMBERED_LEASES = 8  # replies a member
_FOR_ANYONE = (p.Hello, p.Goodbye, p.GetStatus)
_FOR_ROLLOUT = (p.LeaseRequest, p.SubmitGroup, p.GiveBack, p.WatchWeights, p.AckWeights)
_FOR_LEARNER = (p.TakeBatch, p.AckBatch, p.AnnounceWeights, p.WatchMembers, p.Finish)


class Outgoing(NamedTuple):
    """One reply and where it goes."""

    peer: bytes
    request_id: bytes
    message: BaseModel


class BrokerService:
    def __init__(
        self, ledger: Ledger, membership: Membership, *, run_id: str, num_samples: int
    ) -> None:
        self.ledger = ledger
        self.membership = membership
        self.is_finished = False
        self._run_id = run_id
        self._num_samples = num_samples
        self._announcements = Announcements()
        self._has_news = False  # for those who watch the weights
        self._polls = Polls()
        self._granted: dict[Owner, OrderedDict[bytes, p.Leases]] = {}
        self._outbox: list[Outgoing] = []
        self._handlers: dict[type[BaseModel], Callable[[Any, float], BaseModel]] = {
            p.Hello: self._on_hello,
            p.Heartbeat: self._on_heartbeat,
            p.Goodbye: self._on_goodbye,
            p.SubmitGroup: self._on_submit,
            p.GiveBack: self._on_give_back,
            p.AckBatch: self._on_ack_batch,
            p.AnnounceWeights: self._on_announce,
            p.AckWeights: self._on_ack_weights,
            p.GetStatus: self._on_status,
            p.Finish: self._on_finish,
        }
        self._poll_makers: dict[type[BaseModel], Callable[[Any, bytes], tuple[Answer, Empty]]] = {
            p.LeaseRequest: self._lease_poll,
            p.TakeBatch: self._take_poll,
            p.WatchWeights: self._watch_weights_poll,
            p.WatchMembers: self._watch_members_poll,
        }

    @property
    def is_over(self) -> bool:
        """The run is finished and everybody has left."""
        return self.is_finished and len(self.membership) == 0

    def handle(
        self, peer: bytes, request_id: bytes, request: BaseModel, now: float
    ) -> list[Outgoing]:
        """Carry out one request. Time must not run backwards between calls."""
        self._carry_out_what_is_due(now)
        try:
            reply = self._reply(peer, request_id, request, now)
        except Refusal as refusal:
            reply = p.Refused(code=refusal.code, message=str(refusal))
        if reply is not None:
            self._outbox.append(Outgoing(peer, request_id, reply))
        return self._settle(now)

    def tick(self, now: float) -> list[Outgoing]:
        """Carry out what is due: lapsed leases, silent members, held requests that end."""
        self._carry_out_what_is_due(now)
        return self._settle(now)

    def finish(self, reason: str, now: float) -> list[Outgoing]:
        """End the run: members are told to drain and leave."""
        if not self.is_finished:
            logger.info("finished: %s", reason)
        self.is_finished = self._has_news = True
        return self._settle(now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, if no request comes before."""
        parts = (self.ledger, self.membership, self._polls)
        deadlines = [part.next_deadline() for part in parts]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # ---- dispatch --------------------------------------------------------------------------------
    def _reply(self, peer: bytes, request_id: bytes, request: Any, now: float) -> BaseModel | None:
        if not isinstance(request, _FOR_ANYONE):
            self._admit(request, now)
        handler = self._handlers.get(type(request))
        if handler is not None:
            return handler(request, now)
        answer, empty = self._poll_makers[type(request)](request, request_id)
        reply = answer(now)
        if reply is None and request.wait_s == 0:
            return empty()
        if reply is None:
            owner, deadline = (request.member_id, request.incarnation), now + request.wait_s
            self._polls.add(Poll(owner, peer, request_id, type(request), deadline, answer, empty))
        return reply

    def _admit(self, request: Any, now: float) -> None:
        """Refuse requests of strangers and requests that do not befit the member's role."""
        member = self.membership.seen(request.member_id, request.incarnation, now)
        for needed, kinds in ((p.Role.ROLLOUT, _FOR_ROLLOUT), (p.Role.LEARNER, _FOR_LEARNER)):
            if isinstance(request, kinds) and member.role is not needed:
                raise Refusal(
                    "wrong_role", f"{type(request).__name__} is for a {needed}, not {member.role}"
                )

    def _carry_out_what_is_due(self, now: float) -> None:
        lapsed = self.ledger.lapse(now)
        if lapsed:
            logger.warning("leases lapsed, issued again: %s", ", ".join(lapsed))
        for member in self.membership.lapse(now):
            silent_s = now - member.last_seen_s
            logger.warning("%s is gone: silent for %.1f s", member.member_id, silent_s)
            self._part_with(member, "member_lost", "unknown_member")
        for poll in self._polls.lapse(now):
            self._outbox.append(Outgoing(poll.peer, poll.request_id, poll.empty()))

    def _settle(self, now: float) -> list[Outgoing]:
        """Answer whatever held requests can be answered now, check the books, empty the outbox."""
        self._answer_polls(p.TakeBatch, now)
        self._answer_polls(p.WatchMembers, now)
        if self._has_news:
            self._answer_polls(p.WatchWeights, now)
        if self.ledger.has_work or self.is_finished:
            self._answer_polls(p.LeaseRequest, now)
        self._has_news = False
        self.ledger.check()
        outgoing, self._outbox = self._outbox, []
        return outgoing

    def _answer_polls(self, kind: type[BaseModel], now: float) -> None:
        for poll in self._polls.of_kind(kind):
            try:
                reply = poll.answer(now)
            except Refusal as refusal:
                reply = p.Refused(code=refusal.code, message=str(refusal))
            if reply is not None:
                self._polls.remove(poll)
                self._outbox.append(Outgoing(poll.peer, poll.request_id, reply))

    # ---- membership ------------------------------------------------------------------------------
    def _on_hello(self, hello: p.Hello, now: float) -> BaseModel:
        if hello.protocol_version != PROTOCOL_VERSION:
            raise Refusal(
                "version_mismatch",
                f"{hello.member_id} speaks protocol {hello.protocol_version}, the broker "
                f"{PROTOCOL_VERSION}. Fix: install the same version everywhere",
            )
        if hello.role is not p.Role.OBSERVER:
            predecessor = self.membership.join(hello, now)
            if predecessor is not None:
                self._part_with(predecessor, "member_lost", "superseded")
            logger.info("%s says hello %s", hello.member_id, hello.details)
        return p.Welcome(
            run_id=self._run_id,
            protocol_version=PROTOCOL_VERSION,
            groups_per_step=self.ledger.rules.groups_per_step,
            max_staleness=self.ledger.rules.max_staleness,
            total_steps=self.ledger.total_steps,
            num_samples=self._num_samples,
        )

    def _on_heartbeat(self, heartbeat: p.Heartbeat, now: float) -> BaseModel:
        member = self.membership.seen(heartbeat.member_id, heartbeat.incarnation, now)
        member.gauges = heartbeat.gauges
        return p.Done(finished=self.is_finished)

    def _on_goodbye(self, goodbye: p.Goodbye, now: float) -> BaseModel:
        member = self.membership.leave((goodbye.member_id, goodbye.incarnation))
        if member is not None:
            logger.info("%s says goodbye", member.member_id)
            self._part_with(member, "member_left", "unknown_member")
        return p.Done(finished=self.is_finished)

    def _part_with(self, member: Member, reason: str, code: str) -> None:
        """Take back the leases of a life that is over, and end its held requests."""
        released = self.ledger.release(member.owner, reason)
        if released:
            logger.warning("%s gave back %s", member.member_id, ", ".join(released))
        self._granted.pop(member.owner, None)
        refused = p.Refused(code=code, message=f"{member.member_id}: this process counts as gone")
        for poll in self._polls.of_owner(member.owner):
            self._polls.remove(poll)
            self._outbox.append(Outgoing(poll.peer, poll.request_id, refused))
        self.ledger.free_slots(self.membership.serving_floor())

    # ---- samples ---------------------------------------------------------------------------------
    def _lease_poll(self, request: p.LeaseRequest, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def answer(now: float) -> p.Leases | None:
            if self.is_finished:
                return p.Leases(leases=(), finished=True)
            return self._granted_before(owner, request_id) or self._grant(
                owner, request_id, request, now
            )

        return answer, lambda: p.Leases(leases=(), finished=self.is_finished)

    def _granted_before(self, owner: Owner, request_id: bytes) -> p.Leases | None:
        """The leases that went out for this very request: its first reply may have been lost."""
        remembered = self._granted.get(owner)
        return remembered.get(request_id) if remembered else None

    def _grant(
        self, owner: Owner, request_id: bytes, request: p.LeaseRequest, now: float
    ) -> p.Leases | None:
        member = self.membership.find(owner)
        assert member is not None, "requests of members that are gone are not held"
        serving = max(request.serving_version, member.acknowledged_version)
        leases = self.ledger.lease(owner, request.max_groups, serving, now)
        if not leases:
            return None
        reply = p.Leases(leases=tuple(leases))
        remembered = self._granted.setdefault(owner, OrderedDict())
        remembered[request_id] = reply
        if len(remembered) > _MAX_REMEMBERED_LEASES:
            remembered.popitem(last=False)
        return reply

    def _on_submit(self, request: p.SubmitGroup, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        verdict = self.ledger.submit(owner, request.group)
        if verdict is not p.Verdict.ACCEPTED:
            group = request.group
            logger.warning("%s, attempt %d: %s", group.group_id, group.attempt, verdict)
        return p.Submitted(verdict=verdict)

    def _on_give_back(self, request: p.GiveBack, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        is_quarantined = self.ledger.give_back(
            owner, request.group_id, request.attempt, request.broken_sample
        )
        what = "quarantined" if is_quarantined else "given back"
        logger.warning("%s %s: %s", request.group_id, what, request.reason)
        return p.Done(finished=self.is_finished)

    def _take_poll(self, request: p.TakeBatch, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)
        return (
            lambda now: self.ledger.take(owner, request.step),
            lambda: p.Batch(step=request.step, groups=()),
        )

    def _on_ack_batch(self, request: p.AckBatch, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        self.ledger.acknowledge(owner, request.step, request.refused)
        for group_id, reason in request.refused.items():
            logger.warning("%s quarantined by the learner: %s", group_id, reason)
        return p.Done(finished=self.is_finished)

    # ---- weights ---------------------------------------------------------------------------------
    def _on_announce(self, request: p.AnnounceWeights, now: float) -> BaseModel:
        update = request.update
        if self._announcements.announce(update, self.membership, self.ledger.version):
            self._has_news = True
            names = ", ".join(update.group.ranks)
            logger.info("version %d, attempt %d to %s", update.version, update.attempt, names)
        return p.Done(finished=self.is_finished)

    def _watch_weights_poll(
        self, request: p.WatchWeights, request_id: bytes
    ) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)
        seen = (request.seen_version, request.seen_attempt)

        def answer(now: float) -> p.Announcement | None:
            update = self._announcements.newer_than(*seen, owner)
            if update is None and not self.is_finished:
                return None
            return p.Announcement(update=update, finished=self.is_finished)

        return answer, lambda: p.Announcement(update=None, finished=self.is_finished)

    def _on_ack_weights(self, request: p.AckWeights, now: float) -> BaseModel:
        if request.version > self.ledger.version:
            raise Refusal(
                "bad_request",
                f"version {request.version}, but the newest is {self.ledger.version}",
            )
        member = self.membership.seen(request.member_id, request.incarnation, now)
        member.acknowledged_version = max(member.acknowledged_version, request.version)
        self.ledger.free_slots(self.membership.serving_floor())
        return p.Done(finished=self.is_finished)

    def _watch_members_poll(
        self, request: p.WatchMembers, request_id: bytes
    ) -> tuple[Answer, Empty]:
        def members() -> p.Members:
            return p.Members(acknowledged=self.membership.acknowledged())

        def answer(now: float) -> p.Members | None:
            reply = members()
            return reply if len(reply.acknowledged) >= request.at_least else None

        return answer, members

    # ---- the run ---------------------------------------------------------------------------------
    def _on_finish(self, request: p.Finish, now: float) -> BaseModel:
        if not self.is_finished:
            logger.info("finished: %s", request.reason)
        self.is_finished = self._has_news = True
        return p.Done(finished=True)

    def _on_status(self, request: p.GetStatus, now: float) -> BaseModel:
        ledger = self.ledger
        return p.Status(
            run_id=self._run_id,
            version=ledger.version,
            total_steps=ledger.total_steps,
            finished=self.is_finished,
            counts=ledger.counts(),
            expired_by_reason=dict(ledger.books.trajectories.expired_by_reason),
            max_staleness_seen=ledger.max_staleness_seen,
            slots_used=ledger.slots_used,
            slots=ledger.slots,
            members=tuple(_status_of(member, now) for member in self.membership.all()),
        )


def _status_of(member: Member, now: float) -> p.MemberStatus:
    return p.MemberStatus(
        member_id=member.member_id,
        role=member.role,
        silent_s=max(0.0, now - member.last_seen_s),
        acknowledged_version=member.acknowledged_version,
        gauges=member.gauges,
        details=member.details,
    )
