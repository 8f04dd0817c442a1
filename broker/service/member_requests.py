"""Requests of every member: to join, to count as alive, to leave."""

import logging
from collections.abc import Mapping

from broker import protocol as p
from broker.ledger.evaluations import Evaluations
from broker.service.handlers import Call, handles
from broker.service.handshake import check_hello
from broker.service.membership import Member
from broker.service.outbox import Outbox
from broker.service.recorder import LedgerRecorder, one_line
from common.wire import PROTOCOL_VERSION

logger = logging.getLogger(__name__)


class MemberRequests:
    """Handlers of hello, heartbeat and goodbye, and what a member's end brings about.

    Args:
        versions: of the broker's process; members must have the same code.
    """

    def __init__(
        self,
        recorder: LedgerRecorder,
        evaluations: Evaluations,
        outbox: Outbox,
        *,
        run_id: str,
        max_frame_bytes: int,
        versions: Mapping[str, str],
    ) -> None:
        self._recorder = recorder
        self._evaluations = evaluations
        self._outbox = outbox
        self._run_id = run_id
        self._max_frame_bytes = max_frame_bytes
        self._versions = versions

    @handles(p.Hello)
    def hello(self, hello: p.Hello, call: Call) -> p.Welcome:
        recorder = self._recorder
        ledger, membership = recorder.ledger, recorder.membership
        remark = check_hello(hello, self._versions, membership.all())
        if hello.role is not p.Role.OBSERVER:
            predecessor = membership.join(hello, call.now)
            if predecessor is not None:
                why = f"{hello.member_id} died: another process took its place"
                self.part_with(predecessor, "member_lost", why, "superseded")
            if hello.owner not in ledger.members:
                recorder.do(ledger.join, hello.owner, hello.role)
                recorder.store.must_sync()  # a life that was superseded must never come back
            logger.info("%s says hello %s", hello.member_id, hello.details)
            if remark:
                logger.warning("%s has %s", hello.member_id, remark)
                membership.note(hello.member_id, "differs", remark)
        return p.Welcome(
            run_id=self._run_id,
            protocol_version=PROTOCOL_VERSION,
            groups_per_step=ledger.rules.groups_per_step,
            max_staleness=ledger.rules.max_staleness,
            total_steps=ledger.steps.total_steps,
            heartbeat_s=membership.heartbeat_s,
            max_frame_bytes=self._max_frame_bytes,
        )

    @handles(p.Heartbeat)
    def heartbeat(self, heartbeat: p.Heartbeat, call: Call) -> p.Done:
        member = self._recorder.membership.seen(*heartbeat.owner, call.now)
        member.gauges, member.ranks = heartbeat.gauges, heartbeat.ranks
        member.versions = heartbeat.versions
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.Goodbye)
    def goodbye(self, goodbye: p.Goodbye, call: Call) -> p.Done:
        member = self._recorder.membership.leave(goodbye.owner)
        if member is None:
            return p.Done(finished=self._recorder.is_finished)
        failure = one_line(goodbye.failure)
        logger.info("%s says goodbye%s", member.member_id, failure and f": {failure}")
        quarantine = self._recorder.ledger.quarantine
        num_given_up = len(quarantine.records)
        reason = "engine_lost" if failure else "member_left"
        why = f"{member.member_id}: {failure}" if failure else "its server left in good order"
        self.part_with(member, reason, why, "unknown_member")
        is_explained = len(quarantine.records) > num_given_up
        return p.Done(finished=self._recorder.is_finished, is_explained=is_explained)

    def lapse(self, now: float) -> None:
        """Part with the members that have been silent for too long."""
        for member in self._recorder.membership.lapse(now):
            silent_s = now - member.last_seen_s
            logger.warning("%s is gone: silent for %.1f s", member.member_id, silent_s)
            why = f"{member.member_id} was lost: silent for {silent_s:.0f} s"
            self.part_with(member, "member_lost", why, "unknown_member")

    def part_with(self, member: Member, reason: str, why: str, code: str) -> None:
        """Take back the leases of a life that is over, and end its held requests."""
        recorder = self._recorder
        self._evaluations.leave(member.owner)
        released = recorder.do(recorder.ledger.leave, member.owner, reason, why, recorder.now)
        if released:
            logger.warning("%s gave back %s", member.member_id, ", ".join(released))
        refused = p.Refused(code=code, message=f"{member.member_id}: this process counts as gone")
        self._outbox.answer_all_of(member.owner, refused)
