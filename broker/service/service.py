"""Requests in, replies out: membership, ledger and long polls behind one door. No I/O, no clock.

`handle`, `tick` and `finish` return the replies to send, once the store has been flushed. Whatever
a request makes possible for a held one is answered in the same call, so nothing is ever polled for.
The desks know the requests of each role; every change of the ledger goes through their counter,
which records it.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from broker import protocol as p
from broker.ledger.evaluations import Evaluations
from broker.ledger.ledger import Ledger
from broker.ledger.quarantine import Quarantined
from broker.ledger.refusal import Refusal, refused_for
from broker.service.announcement import Announcements
from broker.service.counter import (
    BooksBroken,
    Counter,
    Handler,
    Outcome,
    Parameters,
    PollMaker,
    one_line,
)
from broker.service.evaluation_desk import EvaluationDesk
from broker.service.handshake import check_hello
from broker.service.learner_desk import LearnerDesk
from broker.service.membership import Member, Membership
from broker.service.polls import Poll, Polls
from broker.service.rights import FOR_ANYONE, FOR_LEARNER, FOR_ROLLOUT, check_same
from broker.service.rollout_desk import RolloutDesk
from broker.storage.store import Store
from common.data_health import DataRows, data_fault, first_lines
from common.types import Sample
from common.wire import PROTOCOL_VERSION

logger = logging.getLogger(__name__)
_CHANGE_NOTHING = (p.Heartbeat, p.GetStatus, p.WatchWeights, p.WatchMembers, p.Finish)


class Outgoing(NamedTuple):
    """One reply and where it goes."""

    peer: bytes
    request_id: bytes
    message: BaseModel


class BrokerService:
    """
    Args:
        store: keeps trajectories, and the record of every change.
        max_frame_bytes: of a message; clients are told.
        rows: of the data set, with those that were refused; None: all are good, and may be lost.
        first_serial: announcements are numbered from here on.
        versions: of this process; members must have the same code. None: they may have any.
        heldout: samples that may be measured on, by name; None: there are none.
    """

    def __init__(
        self,
        ledger: Ledger,
        membership: Membership,
        store: Store,
        *,
        run_id: str,
        num_samples: int,
        max_frame_bytes: int,
        rows: DataRows | None = None,
        first_serial: int = 0,
        versions: Mapping[str, str] | None = None,
        heldout: Mapping[str, Sample] | None = None,
    ) -> None:
        self._counter = Counter(ledger, membership, store, Announcements(first_serial))
        self.ledger = ledger
        self.membership = membership
        self.store = store
        self._run_id = run_id
        self._rows = rows or DataRows(num_samples)
        self._max_frame_bytes = max_frame_bytes
        self._versions = versions or {}
        self._checked = -1  # the ledger's revision
        self._supply = -1  # the ledger's, when all held lease requests were last tried
        self._polls = Polls()
        self._outbox: list[Outgoing] = []
        self._evaluations = Evaluations(heldout or {}, ledger.rules.lease_s)
        self._evaluated = 0  # the evaluations' revision, when held requests were last tried
        desks = (
            RolloutDesk(self._counter, self._evaluations),
            LearnerDesk(self._counter, max_frame_bytes, self._evaluations),
            EvaluationDesk(self._counter, self._evaluations),
        )
        self._handlers: dict[type[BaseModel], Handler] = {
            p.Hello: self._on_hello,
            p.Heartbeat: self._on_heartbeat,
            p.Goodbye: self._on_goodbye,
            p.GetStatus: self._on_status,
        }
        self._poll_makers: dict[type[BaseModel], PollMaker] = {}
        for desk in desks:
            self._handlers |= desk.handlers
            self._poll_makers |= desk.poll_makers

    @property
    def is_finished(self) -> bool:
        """The run is over: members are to drain and leave."""
        return self._counter.is_finished

    @property
    def quarantined(self) -> Sequence[Quarantined]:
        """What no step will train, in the order in which it was given up."""
        return self.ledger.quarantine.records

    @property
    def is_over(self) -> bool:
        """The run is finished and everybody has left."""
        return self.is_finished and len(self.membership) == 0

    def handle(
        self,
        peer: bytes,
        request_id: bytes,
        request: BaseModel,
        now: float,
        role: p.Role | None = None,
    ) -> list[Outgoing]:
        """Carry out one request. Time must not run backwards between calls.

        A fault at one request ends that request, unless it left the ledger in doubt.

        Args:
            role: of the sender's key; None: a broker without keys.

        Raises:
            BooksBroken: the ledger failed in the middle of a change.
        """
        self._counter.now = now
        self._carry_out_what_is_due(now)
        reply = _answered(type(request), lambda: self._reply(peer, request_id, request, now, role))
        if reply is not None:
            self._outbox.append(Outgoing(peer, request_id, reply))
        return self._settle(now)

    def tick(self, now: float) -> list[Outgoing]:
        """Carry out what is due: lapsed leases, silent members, held requests that end."""
        self._counter.now = now
        self._carry_out_what_is_due(now)
        return self._settle(now)

    def finish(self, reason: str, now: float) -> list[Outgoing]:
        """End the run: members are told to drain and leave."""
        if not self.is_finished:
            logger.info("finished: %s", reason)
        self._counter.is_stopping = self._counter.has_news = True
        return self._settle(now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, if no request comes before."""
        parts: tuple[Ledger | Membership | Polls | Evaluations, ...]
        parts = (self.ledger, self.membership, self._polls, self._evaluations)
        if self.store.failure is not None:
            parts = (self._polls,)  # nothing else may happen
        deadlines = [part.next_deadline() for part in parts]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def change(
        self,
        now: float,
        call: Callable[Parameters, Outcome],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Outcome:
        """Call a method of the ledger from outside a request, and record it."""
        self._counter.now = now
        return self._counter.do(call, *arguments, **named)

    # ---- dispatch --------------------------------------------------------------------------------
    def _reply(
        self, peer: bytes, request_id: bytes, request: Any, now: float, role: p.Role | None
    ) -> BaseModel | None:
        if self.store.failure is not None and not isinstance(request, _CHANGE_NOTHING):
            raise Refusal("store_failure", self.store.failure)
        if isinstance(request, p.Hello):
            check_same(request.role, role)
        elif not isinstance(request, p.GetStatus):
            named = self.membership.find((request.member_id, request.incarnation))
            if named is not None:
                check_same(named.role, role)
        if not isinstance(request, FOR_ANYONE):
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
        for needed, kinds in ((p.Role.ROLLOUT, FOR_ROLLOUT), (p.Role.LEARNER, FOR_LEARNER)):
            if isinstance(request, kinds) and member.role is not needed:
                raise Refusal(
                    "wrong_role", f"{type(request).__name__} is for a {needed}, not {member.role}"
                )

    def _carry_out_what_is_due(self, now: float) -> None:
        if self.store.failure is None:
            lapsed = self._counter.do(self.ledger.lapse, now)
            if lapsed:
                logger.warning("leases lapsed, issued again: %s", ", ".join(lapsed))
            for member in self.membership.lapse(now):
                silent_s = now - member.last_seen_s
                logger.warning("%s is gone: silent for %.1f s", member.member_id, silent_s)
                why = f"{member.member_id} was lost: silent for {silent_s:.0f} s"
                self._part_with(member, "member_lost", why, "unknown_member")
            self._evaluations.lapse(now)
        for poll in self._polls.lapse(now):
            self._outbox.append(Outgoing(poll.peer, poll.request_id, poll.empty()))

    def _settle(self, now: float) -> list[Outgoing]:
        """Answer whatever held requests can be answered now, check the books, empty the outbox."""
        if self._checked != self.ledger.revision and not self.is_finished:
            self._judge_data(now)
        if self.store.failure is None:
            self._answer(self._polls.of_kind(p.AckBatch), now)
            self._answer(self._polls.of_kind(p.TakeBatch), now)
            self._answer_lease_requests(now)
            self._answer_evaluators(now)
        self._answer(self._polls.of_kind(p.WatchMembers), now)
        if self._counter.has_news:
            self._answer(self._polls.of_kind(p.WatchWeights), now)
        self._counter.has_news = False
        if self._checked != self.ledger.revision:
            self.ledger.check()
            self._checked = self.ledger.revision
        outgoing, self._outbox = self._outbox, []
        return outgoing

    def _judge_data(self, now: float) -> None:
        """End the run when too much of the data set turns out to be of no use."""
        fault = data_fault(self._rows, self.ledger.quarantine)
        if fault is None:
            return
        logger.error("the run ends: %s", fault)
        self._counter.ended_because = fault
        self._counter.is_stopping = self._counter.has_news = True

    def _answer_lease_requests(self, now: float) -> None:
        """All of them when supply has grown; else those of servers that have new weights."""
        if self._supply != self.ledger.supply or self.is_finished:
            self._supply = self.ledger.supply
            polls = self._polls.of_kind(p.LeaseRequest)
        else:
            polls = (
                poll
                for owner in self._counter.refreshed
                for poll in self._polls.of_owner(owner)
                if poll.kind is p.LeaseRequest
            )
        self._counter.refreshed = set()
        if self.ledger.has_work or self.is_finished:
            self._answer(polls, now)

    def _answer_evaluators(self, now: float) -> None:
        if self._evaluated == self._evaluations.revision and not self.is_finished:
            return
        for kind in (p.LeaseAnswers, p.ReadMeasurement):  # a lease may tell of a pinned version
            self._answer(self._polls.of_kind(kind), now)
        self._evaluated = self._evaluations.revision

    def _answer(self, polls: Iterable[Poll], now: float) -> None:
        for poll in polls:
            reply = _answered(poll.kind, functools.partial(poll.answer, now))
            if reply is not None:
                self._polls.remove(poll)
                self._outbox.append(Outgoing(poll.peer, poll.request_id, reply))

    # ---- membership ------------------------------------------------------------------------------
    def _on_hello(self, hello: p.Hello, now: float) -> BaseModel:
        remark = check_hello(hello, self._versions, self.membership.all())
        if hello.role is not p.Role.OBSERVER:
            predecessor = self.membership.join(hello, now)
            if predecessor is not None:
                why = f"{hello.member_id} died: another process took its place"
                self._part_with(predecessor, "member_lost", why, "superseded")
            owner = (hello.member_id, hello.incarnation)
            if owner not in self.ledger.members:
                self._counter.do(self.ledger.join, owner, hello.role)
                self.store.must_sync()  # a life that was superseded must never come back
            logger.info("%s says hello %s", hello.member_id, hello.details)
            if remark:
                logger.warning("%s has %s", hello.member_id, remark)
                self.membership.note(hello.member_id, "differs", remark)
        return p.Welcome(
            run_id=self._run_id,
            protocol_version=PROTOCOL_VERSION,
            groups_per_step=self.ledger.rules.groups_per_step,
            max_staleness=self.ledger.rules.max_staleness,
            total_steps=self.ledger.steps.total_steps,
            heartbeat_s=self.membership.heartbeat_s,
            max_frame_bytes=self._max_frame_bytes,
        )

    def _on_heartbeat(self, heartbeat: p.Heartbeat, now: float) -> BaseModel:
        member = self.membership.seen(heartbeat.member_id, heartbeat.incarnation, now)
        member.gauges, member.ranks = heartbeat.gauges, heartbeat.ranks
        member.versions = heartbeat.versions
        return p.Done(finished=self.is_finished)

    def _on_goodbye(self, goodbye: p.Goodbye, now: float) -> BaseModel:
        member = self.membership.leave((goodbye.member_id, goodbye.incarnation))
        if member is None:
            return p.Done(finished=self.is_finished)
        failure = one_line(goodbye.failure)
        logger.info("%s says goodbye%s", member.member_id, failure and f": {failure}")
        num_given_up = len(self.quarantined)
        reason = "engine_lost" if failure else "member_left"
        why = f"{member.member_id}: {failure}" if failure else "its server left in good order"
        self._part_with(member, reason, why, "unknown_member")
        is_explained = len(self.quarantined) > num_given_up
        return p.Done(finished=self.is_finished, is_explained=is_explained)

    def _part_with(self, member: Member, reason: str, why: str, code: str) -> None:
        """Take back the leases of a life that is over, and end its held requests."""
        now = self._counter.now
        self._evaluations.leave(member.owner)
        released = self._counter.do(self.ledger.leave, member.owner, reason, why, now)
        if released:
            logger.warning("%s gave back %s", member.member_id, ", ".join(released))
        refused = p.Refused(code=code, message=f"{member.member_id}: this process counts as gone")
        for poll in self._polls.of_owner(member.owner):
            self._polls.remove(poll)
            self._outbox.append(Outgoing(poll.peer, poll.request_id, refused))

    # ---- the run ---------------------------------------------------------------------------------
    def _on_status(self, request: p.GetStatus, now: float) -> BaseModel:
        ledger = self.ledger
        return p.Status(
            run_id=self._run_id,
            version=ledger.version,
            history=ledger.history,
            committed=ledger.steps.committed,
            total_steps=ledger.steps.total_steps,
            finished=self.is_finished,
            counts=ledger.counts(),
            expired_by_reason=dict(ledger.books.trajectories.expired_by_reason),
            trained_lengths=_by_name(ledger.books.lengths.trained),
            expired_lengths=_by_name(ledger.books.lengths.expired),
            max_staleness_seen=ledger.steps.max_staleness_seen,
            slots_used=ledger.slots_used,
            slots=ledger.rules.slots,
            storage=self.store.figures(),
            data=self._data_status(),
            members=tuple(self._status_of(member, now) for member in self.membership.all()),
            lost=self.membership.lost(now),
            store_failure=self.store.failure or "",
            seconds=now,
        )

    def _data_status(self) -> p.DataStatus:
        ledger = self.ledger
        return p.DataStatus(
            rows=self._rows.total,
            refused_rows=len(self._rows.refused),
            quarantined_samples=ledger.quarantine.num_samples,
            first=first_lines(self._rows, ledger.quarantine),
            left_over_groups=ledger.steps.left_over,
            all_groups=ledger.num_groups,
            given_back_groups=ledger.books.samples.expired_by_reason["member_left"],
            retried_groups=len(ledger.retried),
            failed_attempts=ledger.num_failures,
            last_failure=ledger.last_failure,
            ended_because=self._counter.ended_because,
        )

    def _status_of(self, member: Member, now: float) -> p.MemberStatus:
        return p.MemberStatus(
            member_id=member.member_id,
            role=member.role,
            silent_s=max(0.0, now - member.last_seen_s),
            acknowledged_version=self.ledger.servers.version_of(member.owner),
            gauges=member.gauges,
            details=member.details,
        )


def _answered(kind: type[BaseModel], answer: Callable[[], BaseModel | None]) -> BaseModel | None:
    """The reply to a request of that kind; a fault ends the request, unless the books are wrong.

    Raises:
        BooksBroken: the ledger failed in the middle of a change.
    """
    try:
        return answer()
    except Refusal as refusal:
        return refusal.reply()
    except BooksBroken:
        raise
    except Exception as error:
        logger.exception("%s met a fault", kind.__name__)
        return refused_for(error)


def _by_name(histogram: Mapping[int, int]) -> dict[str, int]:
    return {str(length): count for length, count in sorted(histogram.items())}
