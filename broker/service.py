"""Requests in, replies out: membership, ledger and long polls behind one door. No I/O, no clock.

`handle`, `tick` and `finish` return the replies to send, once the store has been flushed. Whatever
a request makes possible for a held one is answered in the same call, so nothing is ever polled for.
Every call that changes the ledger goes through `_do`, which records it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pydantic import BaseModel

from broker import protocol as p
from broker.announcement import Announcements
from broker.entry import Entry, Owner, Receipt, Rules, Shard, lease_of
from broker.ledger import Ledger
from broker.membership import Member, Membership
from broker.polls import Answer, Empty, Poll, Polls
from broker.recovery import outcome_of
from broker.refusal import Refusal
from broker.store import Damaged, Store, size_of
from common.types import FinishReason, Group, WeightUpdate
from common.wire import PROTOCOL_VERSION

logger = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
Outcome = TypeVar("Outcome")
_FOR_ANYONE = (p.Hello, p.Goodbye, p.GetStatus)
_FOR_ROLLOUT = (p.LeaseRequest, p.SubmitGroup, p.GiveBack, p.WatchWeights, p.AckWeights)
_FOR_LEARNER = (
    p.TakeBatch, p.AckBatch, p.Resume, p.CommitStep, p.AnnounceWeights, p.WatchMembers, p.Finish,
)  # fmt: skip
_CHANGE_NOTHING = (p.Heartbeat, p.GetStatus, p.WatchWeights, p.WatchMembers, p.Finish)
_PAGE_SHARE = 0.5  # of a frame that the groups of one reply may fill


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
        first_serial: announcements are numbered from here on.
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
        first_serial: int = 0,
    ) -> None:
        self.ledger = ledger
        self.membership = membership
        self.store = store
        self.is_finished = ledger.is_finished
        self._run_id = run_id
        self._num_samples = num_samples
        self._max_frame_bytes = max_frame_bytes
        self._announcements = Announcements(first_serial)
        self._has_news = False  # for those who watch the weights
        self._supply = -1  # the ledger's, when all held lease requests were last tried
        self._refreshed: set[Owner] = set()  # servers with new weights since
        self._polls = Polls()
        self._outbox: list[Outgoing] = []
        self._now = 0.0
        self._handlers: dict[type[BaseModel], Callable[[Any, float], BaseModel]] = {
            p.Hello: self._on_hello,
            p.Heartbeat: self._on_heartbeat,
            p.Goodbye: self._on_goodbye,
            p.SubmitGroup: self._on_submit,
            p.GiveBack: self._on_give_back,
            p.Resume: self._on_resume,
            p.CommitStep: self._on_commit,
            p.AnnounceWeights: self._on_announce,
            p.AckWeights: self._on_ack_weights,
            p.GetStatus: self._on_status,
            p.Finish: self._on_finish,
        }
        self._poll_makers: dict[type[BaseModel], Callable[[Any, bytes], tuple[Answer, Empty]]] = {
            p.LeaseRequest: self._lease_poll,
            p.TakeBatch: self._take_poll,
            p.AckBatch: self._ack_batch_poll,
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
        self._now = now
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
        self._now = now
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
        parts: tuple[Ledger | Membership | Polls, ...]
        parts = (self.ledger, self.membership, self._polls)
        if self.store.failure is not None:
            parts = (self._polls,)  # nothing else may happen
        deadlines = [part.next_deadline() for part in parts]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # ---- dispatch --------------------------------------------------------------------------------
    def _reply(self, peer: bytes, request_id: bytes, request: Any, now: float) -> BaseModel | None:
        if self.store.failure is not None and not isinstance(request, _CHANGE_NOTHING):
            raise Refusal("store_failure", self.store.failure)
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

    def change(
        self,
        now: float,
        call: Callable[Parameters, Outcome],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Outcome:
        """Call a method of the ledger from outside a request, and record it."""
        self._now = now
        return self._do(call, *arguments, **named)

    def _do(
        self,
        call: Callable[Parameters, Outcome],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Outcome:
        """Call a method of the ledger; if that changes the ledger, record it."""
        assert not named, "a record holds arguments in their order"
        before = self.ledger.revision
        outcome: Outcome | Refusal
        try:
            outcome = call(*arguments, **named)
        except Refusal as refusal:
            outcome = refusal
        if self.ledger.revision != before:
            self.store.record(self._now, call.__name__, arguments, outcome_of(outcome))
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    def _carry_out_what_is_due(self, now: float) -> None:
        if self.store.failure is None:
            lapsed = self._do(self.ledger.lapse, now)
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
        if self.store.failure is None:
            self._answer(self._polls.of_kind(p.AckBatch), now)
            self._answer(self._polls.of_kind(p.TakeBatch), now)
            self._answer_lease_requests(now)
        self._answer(self._polls.of_kind(p.WatchMembers), now)
        if self._has_news:
            self._answer(self._polls.of_kind(p.WatchWeights), now)
        self._has_news = False
        self.ledger.check()
        outgoing, self._outbox = self._outbox, []
        return outgoing

    def _answer_lease_requests(self, now: float) -> None:
        """All of them when supply has grown; else those of servers that have new weights."""
        if self._supply != self.ledger.supply or self.is_finished:
            self._supply = self.ledger.supply
            polls = self._polls.of_kind(p.LeaseRequest)
        else:
            polls = (
                poll
                for owner in self._refreshed
                for poll in self._polls.of_owner(owner)
                if poll.kind is p.LeaseRequest
            )
        self._refreshed = set()
        if self.ledger.has_work or self.is_finished:
            self._answer(polls, now)

    def _answer(self, polls: Iterable[Poll], now: float) -> None:
        for poll in polls:
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
            owner = (hello.member_id, hello.incarnation)
            if owner not in self.ledger.members:
                self._do(self.ledger.join, owner, hello.role)
                self.store.must_sync()  # a life that was superseded must never come back
            logger.info("%s says hello %s", hello.member_id, hello.details)
        return p.Welcome(
            run_id=self._run_id,
            protocol_version=PROTOCOL_VERSION,
            groups_per_step=self.ledger.rules.groups_per_step,
            max_staleness=self.ledger.rules.max_staleness,
            total_steps=self.ledger.total_steps,
            num_samples=self._num_samples,
            max_frame_bytes=self._max_frame_bytes,
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
        released = self._do(self.ledger.leave, member.owner, reason)
        if released:
            logger.warning("%s gave back %s", member.member_id, ", ".join(released))
        refused = p.Refused(code=code, message=f"{member.member_id}: this process counts as gone")
        for poll in self._polls.of_owner(member.owner):
            self._polls.remove(poll)
            self._outbox.append(Outgoing(poll.peer, poll.request_id, refused))

    # ---- samples ---------------------------------------------------------------------------------
    def _lease_poll(self, request: p.LeaseRequest, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def answer(now: float) -> p.Leases | None:
            if self.is_finished:
                return p.Leases(leases=(), finished=True)
            entries = self._do(
                self.ledger.lease,
                owner,
                request_id,
                request.max_groups,
                request.history,
                request.serving_version,
                now,
            )
            return _leases_of(entries, self.ledger.rules) if entries else None

        return answer, lambda: p.Leases(leases=(), finished=self.is_finished)

    def _on_submit(self, request: p.SubmitGroup, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        group = request.group
        entry = self.ledger.leased_to(owner, group.group_id, group.attempt)
        if entry is not None:
            self._check_content(entry, group)
            if not self.store.has_room(group) and not self.ledger.is_of_next_step(entry):
                raise Refusal("over_capacity", "the broker holds as many trajectories as it may")
            self.store.put(group)  # before the decision: a cut between the two loses neither
        verdict = self._do(
            self.ledger.submit, owner, group.group_id, group.attempt, Receipt.of(group)
        )
        if verdict is not p.Verdict.ACCEPTED:
            logger.warning("%s, attempt %d: %s", group.group_id, group.attempt, verdict)
        return p.Submitted(verdict=verdict)

    def _check_content(self, entry: Entry, group: Group) -> None:
        expected = self.ledger.rules.trajectories_per_sample
        if group.sample != entry.assignment.sample:
            raise Refusal("bad_group", f"{group.group_id} was leased with another sample")
        if [t.index for t in group.trajectories] != list(range(expected)):
            raise Refusal("bad_group", f"{group.group_id} needs trajectories 0 to {expected - 1}")
        if any(t.finish_reason is FinishReason.ABORT for t in group.trajectories):
            raise Refusal("bad_group", f"{group.group_id} has an aborted trajectory")

    def _on_give_back(self, request: p.GiveBack, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        is_quarantined = self._do(
            self.ledger.give_back,
            owner,
            request.group_id,
            request.attempt,
            request.broken_sample,
        )
        what = "quarantined" if is_quarantined else "given back"
        logger.warning("%s %s: %s", request.group_id, what, request.reason)
        return p.Done(finished=self.is_finished)

    # ---- the learner's batches -------------------------------------------------------------------
    def _on_resume(self, request: p.Resume, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        before = self.ledger.version
        history = self._do(self.ledger.rewind, owner, request.step)
        self.store.must_sync()
        self.is_finished = False
        if self.ledger.version < before:
            logger.warning("steps %d to %d are undone", request.step + 1, before)
        self._announcements.forget()
        return p.Resumed(history=history, version=self.ledger.version)

    def _take_poll(self, request: p.TakeBatch, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def answer(now: float) -> p.Batch | None:
            shard = self._do(
                self.ledger.take, owner, request.step, request.rank, request.world_size
            )
            return None if shard is None else self._page_of(shard, request.first)

        return answer, lambda: p.Batch(step=request.step, groups=())

    def _page_of(self, shard: Shard, first: int) -> p.Batch | None:
        """Groups of a shard from `first` on, as many as fit; None: one cannot be read any more."""
        groups: list[Group] = []
        left = int(self._max_frame_bytes * _PAGE_SHARE)
        for entry in shard.entries[first:]:
            try:
                group = self.store.get(entry)
            except Damaged as error:
                logger.error("%s is issued again: %s", entry.group_id, error)
                self._do(self.ledger.lose, entry.group_id, entry.attempt)
                return None
            left -= size_of(group)
            if groups and left < 0:
                break
            groups.append(group)
        return p.Batch(
            step=shard.step,
            groups=tuple(groups),
            num_groups=len(shard.entries),
            exhausted=shard.exhausted,
        )

    def _ack_batch_poll(self, request: p.AckBatch, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def acknowledge() -> bool:
            before = self.ledger.version
            is_complete = self._do(
                self.ledger.acknowledge, owner, request.step, request.refused, request.rank
            )
            if self.ledger.version > before:
                self.store.step_ended(self.ledger.needed())
                for group_id, reason in request.refused.items():
                    logger.warning("%s quarantined by the learner: %s", group_id, reason)
            return is_complete

        def answer(now: float) -> p.Acknowledged | None:
            return p.Acknowledged(step=request.step, is_complete=True) if acknowledge() else None

        return answer, lambda: p.Acknowledged(step=request.step, is_complete=False)

    def _on_commit(self, request: p.CommitStep, now: float) -> BaseModel:
        self._do(self.ledger.commit, request.step, request.oldest)
        self.store.committed(self.ledger.kept())
        self.store.must_sync()
        return p.Done(finished=self.is_finished)

    # ---- weights ---------------------------------------------------------------------------------
    def _on_announce(self, request: p.AnnounceWeights, now: float) -> BaseModel:
        update = request.update
        ledger = self.ledger
        if self._announcements.announce(update, self.membership, ledger.history, ledger.version):
            self._has_news = True
            names = ", ".join(update.group.ranks)
            logger.info("version %d, attempt %d to %s", update.version, update.attempt, names)
        return p.Done(finished=self.is_finished)

    def _watch_weights_poll(
        self, request: p.WatchWeights, request_id: bytes
    ) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def announcement(update: WeightUpdate | None) -> p.Announcement:
            serial = self._announcements.serial
            return p.Announcement(serial=serial, update=update, finished=self.is_finished)

        def answer(now: float) -> p.Announcement | None:
            update = self._announcements.newer_than(request.seen_serial, owner)
            return announcement(update) if update is not None or self.is_finished else None

        return answer, lambda: announcement(None)

    def _on_ack_weights(self, request: p.AckWeights, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        self._do(self.ledger.serve, owner, request.history, request.version)
        self._refreshed.add(owner)
        return p.Done(finished=self.is_finished)

    def _watch_members_poll(
        self, request: p.WatchMembers, request_id: bytes
    ) -> tuple[Answer, Empty]:
        def members() -> p.Members:
            servers = self.ledger.servers.all()
            return p.Members(acknowledged={name: servers[name, i] for name, i in sorted(servers)})

        def answer(now: float) -> p.Members | None:
            is_enough = len(self.ledger.servers) >= request.at_least
            return members() if is_enough else None

        return answer, members

    # ---- the run ---------------------------------------------------------------------------------
    def _on_finish(self, request: p.Finish, now: float) -> BaseModel:
        if not self.is_finished:
            logger.info("finished: %s", request.reason)
        self._do(self.ledger.finish)
        self.is_finished = self._has_news = True
        return p.Done(finished=True)

    def _on_status(self, request: p.GetStatus, now: float) -> BaseModel:
        ledger = self.ledger
        return p.Status(
            run_id=self._run_id,
            version=ledger.version,
            history=ledger.history,
            committed=ledger.committed,
            total_steps=ledger.total_steps,
            finished=self.is_finished,
            counts=ledger.counts(),
            expired_by_reason=dict(ledger.books.trajectories.expired_by_reason),
            trained_lengths=_by_name(ledger.books.lengths.trained),
            expired_lengths=_by_name(ledger.books.lengths.expired),
            max_staleness_seen=ledger.max_staleness_seen,
            slots_used=ledger.slots_used,
            slots=ledger.rules.slots,
            storage=self.store.figures(),
            members=tuple(self._status_of(member, now) for member in self.membership.all()),
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


def _leases_of(entries: Iterable[Entry], rules: Rules) -> p.Leases:
    return p.Leases(leases=tuple(lease_of(entry, rules) for entry in entries))


def _by_name(histogram: Mapping[int, int]) -> dict[str, int]:
    return {str(length): count for length, count in sorted(histogram.items())}
