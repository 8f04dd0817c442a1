"""Requests in, replies out: membership, ledger and held requests in one object. No I/O, no clock.

`handle`, `tick` and `finish` return the replies to send, once the store has been flushed. A held
request that a request makes answerable is answered in the same call, so nothing is ever polled for.
The handlers of each role's requests stand in the `*_requests` modules; every change of the ledger
goes through their recorder, which records it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from broker import protocol as p
from broker.ledger.evaluations import Evaluations
from broker.ledger.ledger import Ledger
from broker.ledger.quarantine import Quarantined
from broker.ledger.refusal import Refusal
from broker.service.announcement import Announcements
from broker.service.evaluation_requests import EvaluationRequests
from broker.service.handlers import Call, Held, handlers_of
from broker.service.learner_requests import LearnerRequests
from broker.service.member_requests import MemberRequests
from broker.service.membership import Membership
from broker.service.outbox import Outbox, Outgoing, answered
from broker.service.polls import Poll, Polls
from broker.service.recorder import LedgerRecorder, Outcome, Parameters
from broker.service.rights import check_befits, check_same, needs_membership
from broker.service.rollout_requests import RolloutRequests
from broker.service.status_requests import StatusRequests
from broker.storage.store import Store
from common.data_health import DataRows, data_fault
from common.types import Record, Sample

logger = logging.getLogger(__name__)
# Held requests that `_settle` tries in an order of its own, or only when something has changed.
_TRIED_IN_TURN: set[type[p.Request[Record]]] = {
    p.AckBatch, p.TakeBatch, p.LeaseRequest, p.LeaseAnswers, p.ReadMeasurement, p.WatchWeights,
}  # fmt: skip


class BrokerService:
    """Carries out one request at a time.

    Args:
        store: keeps trajectories, and the record of every change.
        max_frame_bytes: of a message; clients are told.
        rows: of the data set, with those that were refused; None means that all are good, and may
            be lost.
        first_serial: announcements are numbered from here on.
        versions: of this process; members must have the same code. None means that they may have
            any.
        heldout: samples that may be measured on, by name; None means that there are none.
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
        self._recorder = LedgerRecorder(ledger, membership, store, Announcements(first_serial))
        self.ledger = ledger
        self.membership = membership
        self.store = store
        self._rows = rows or DataRows(num_samples)
        self._checked = -1  # the ledger's revision when it was last checked
        self._supply = -1  # the ledger's supply when all held lease requests were last tried
        self._evaluated = 0  # the evaluations' revision when held requests were last tried
        self._outbox = Outbox()
        self._evaluations = Evaluations(heldout or {}, ledger.rules.lease_s)
        self._members = MemberRequests(
            self._recorder,
            self._evaluations,
            self._outbox,
            run_id=run_id,
            max_frame_bytes=max_frame_bytes,
            versions=versions or {},
        )
        self._status = StatusRequests(self._recorder, run_id, self._rows)
        self._handlers = handlers_of(
            self._members,
            self._status,
            RolloutRequests(self._recorder, self._evaluations),
            LearnerRequests(self._recorder, max_frame_bytes, self._evaluations),
            EvaluationRequests(self._recorder, self._evaluations),
        )
        held = (kind for kind in self._handlers if issubclass(kind, p.HeldRequest))
        self._always_tried = [kind for kind in held if kind not in _TRIED_IN_TURN]

    @property
    def is_finished(self) -> bool:
        """The run is over: members are to drain and leave."""
        return self._recorder.is_finished

    @property
    def quarantined(self) -> Sequence[Quarantined]:
        """Groups that no step will train, in the order in which they were given up."""
        return self.ledger.quarantine.records

    @property
    def is_over(self) -> bool:
        """The run is finished and all members have left."""
        return self.is_finished and len(self.membership) == 0

    def status(self, now: float) -> p.Status:
        """The run's status. Nothing changes by it."""
        return self._status.at(now)

    def handle(
        self,
        peer: bytes,
        request_id: bytes,
        request: p.Request[Record],
        now: float,
        role: p.Role | None = None,
    ) -> list[Outgoing]:
        """Carry out one request. Time must not run backwards between calls.

        A fault at one request ends that request, unless it left the ledger in doubt.

        Args:
            role: of the sender's key; None means a broker without keys.

        Raises:
            BooksBroken: the ledger failed in the middle of a change.
        """
        self._recorder.now = now
        self._carry_out_what_is_due(now)
        call = Call(peer, request_id, now)
        reply = answered(type(request), lambda: self._reply(request, call, role))
        if reply is not None:
            self._outbox.add(call, reply)
        return self._settle(now)

    def tick(self, now: float) -> list[Outgoing]:
        """Carry out what is due: lapsed leases, silent members, held requests that end."""
        self._recorder.now = now
        self._carry_out_what_is_due(now)
        return self._settle(now)

    def finish(self, reason: str, now: float) -> list[Outgoing]:
        """End the run: members are told to drain and leave."""
        if not self.is_finished:
            logger.info("finished: %s", reason)
        self._recorder.is_stopping = self._recorder.has_news = True
        return self._settle(now)

    def next_deadline(self) -> float | None:
        """The time at which `tick` has something to do, if no request comes before."""
        parts: tuple[Ledger | Membership | Polls | Evaluations, ...]
        parts = (self.ledger, self.membership, self._outbox.polls, self._evaluations)
        if self.store.failure is not None:
            parts = (self._outbox.polls,)  # nothing else may happen
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
        self._recorder.now = now
        return self._recorder.do(call, *arguments, **named)

    # ---- dispatch --------------------------------------------------------------------------------
    def _reply(self, request: p.Request[Record], call: Call, role: p.Role | None) -> Record | None:
        """The reply, or None while the request is held."""
        if request.needs_store and self.store.failure is not None:
            raise Refusal("store_failure", self.store.failure)
        self._admit(request, call.now, role)
        outcome = self._handlers[type(request)](request, call)
        if not isinstance(outcome, Held):
            return outcome
        assert isinstance(request, p.HeldRequest)
        reply = outcome.answer(call.now)
        if reply is None and request.wait_s == 0:
            return outcome.empty()
        if reply is None:
            deadline = call.now + request.wait_s
            self._outbox.polls.add(Poll(request.owner, type(request), call, deadline, outcome))
        return reply

    def _admit(self, request: p.Request[Record], now: float, role: p.Role | None) -> None:
        """Refuse requests of strangers and requests that do not befit the member's role."""
        if isinstance(request, p.Hello):
            check_same(request.role, role)
        elif isinstance(request, p.MemberRequest):
            named = self.membership.find(request.owner)
            if named is not None:
                check_same(named.role, role)
            if needs_membership(request):
                check_befits(request, self.membership.seen(*request.owner, now))

    def _carry_out_what_is_due(self, now: float) -> None:
        if self.store.failure is None:
            lapsed = self._recorder.do(self.ledger.lapse, now)
            if lapsed:
                logger.warning("leases lapsed, issued again: %s", ", ".join(lapsed))
            self._members.lapse(now)
            self._evaluations.lapse(now)
        self._outbox.lapse(now)

    def _settle(self, now: float) -> list[Outgoing]:
        """Answer the held requests that can be answered now, check the ledger, empty the outbox."""
        if self._checked != self.ledger.revision and not self.is_finished:
            self._judge_data(now)
        if self.store.failure is None:
            self._try_again(p.AckBatch, now)
            self._try_again(p.TakeBatch, now)
            self._answer_lease_requests(now)
            self._answer_evaluators(now)
        for kind in self._always_tried:
            if self.store.failure is None or not kind.needs_store:
                self._try_again(kind, now)
        if self._recorder.has_news:
            self._try_again(p.WatchWeights, now)
        self._recorder.has_news = False
        if self._checked != self.ledger.revision:
            self.ledger.check()
            self._checked = self.ledger.revision
        return self._outbox.emptied()

    def _try_again(self, kind: type[p.Request[Record]], now: float) -> None:
        self._outbox.answer(self._outbox.polls.of_kind(kind), now)

    def _judge_data(self, now: float) -> None:
        """End the run when too much of the data set turns out to be of no use."""
        fault = data_fault(self._rows, self.ledger.quarantine)
        if fault is None:
            return
        logger.error("the run ends: %s", fault)
        self._recorder.ended_because = fault
        self._recorder.is_stopping = self._recorder.has_news = True

    def _answer_lease_requests(self, now: float) -> None:
        """Try all of them when supply has grown; else those of servers that have new weights."""
        polls = self._outbox.polls
        waiting: Iterator[Poll]
        if self._supply != self.ledger.supply or self.is_finished:
            self._supply = self.ledger.supply
            waiting = polls.of_kind(p.LeaseRequest)
        else:
            waiting = (
                poll
                for owner in self._recorder.refreshed
                for poll in polls.of_owner(owner)
                if poll.kind is p.LeaseRequest
            )
        self._recorder.refreshed = set()
        if self.ledger.has_work or self.is_finished:
            self._outbox.answer(waiting, now)

    def _answer_evaluators(self, now: float) -> None:
        if self._evaluated == self._evaluations.revision and not self.is_finished:
            return
        self._try_again(p.LeaseAnswers, now)  # first: a lease may tell of a pinned version
        self._try_again(p.ReadMeasurement, now)
        self._evaluated = self._evaluations.revision
