"""Requests of rollout servers: leases, a place for their groups, news of the weights."""

import logging

from broker import protocol as p
from broker.ledger.entry import Entry, Owner, Receipt, lease_of
from broker.ledger.evaluations import Evaluations
from broker.ledger.refusal import Refusal, refused_for
from broker.service.handlers import Call, Held, handles
from broker.service.recorder import BooksBroken, LedgerRecorder, one_line
from common.errors import ProtocolError
from common.group import Group
from common.group_batch import read
from common.types import FinishReason, WeightUpdate

logger = logging.getLogger(__name__)


class RolloutRequests:
    """Handlers of the requests that rollout servers make."""

    def __init__(self, recorder: LedgerRecorder, evaluations: Evaluations) -> None:
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._evaluations = evaluations

    @handles(p.LeaseRequest)
    def lease(self, request: p.LeaseRequest, call: Call) -> Held[p.Leases]:
        def answer(now: float) -> p.Leases | None:
            if self._recorder.is_finished:
                return p.Leases(leases=(), finished=True)
            entries = self._recorder.do(
                self._ledger.lease,
                request.owner,
                call.request_id,
                request.max_groups,
                request.history,
                request.serving_version,
                now,
            )
            leases = tuple(lease_of(entry, self._ledger.rules) for entry in entries)
            return p.Leases(leases=leases) if leases else None

        return Held(answer, lambda: p.Leases(leases=(), finished=self._recorder.is_finished))

    @handles(p.SubmitGroups)
    def submit(self, request: p.SubmitGroups, call: Call) -> p.Submitted:
        outcomes = (self._outcome(request.owner, batch) for batch in request.groups)
        return p.Submitted(outcomes=tuple(outcomes))

    def _outcome(self, owner: Owner, batch: bytes) -> p.Verdict | p.Refused:
        """What becomes of one group, whatever becomes of the others."""
        try:
            return self._submit(owner, batch)
        except Refusal as refusal:
            return refusal.reply()
        except BooksBroken:
            raise
        except Exception as error:
            logger.exception("SubmitGroups met a fault")
            return refused_for(error)

    def _submit(self, owner: Owner, batch: bytes) -> p.Verdict:
        ledger, store = self._ledger, self._recorder.store
        group = _read(batch)
        receipt = Receipt.of(group)
        entry = ledger.leased_to(owner, group.group_id, group.attempt)
        if entry is not None:
            ledger.check_versions(receipt)  # before it is kept, not after
            self._check_content(entry, group)
            if not store.has_room(len(batch)) and not ledger.is_of_next_step(entry):
                raise Refusal("over_capacity", "the broker holds as many trajectories as it may")
            # before the decision: a cut between the two loses neither
            store.put((group.group_id, group.attempt), batch)
        verdict = self._recorder.do(ledger.submit, owner, group.group_id, group.attempt, receipt)
        if verdict is not p.Verdict.ACCEPTED:
            logger.warning("%s, attempt %d: %s", group.group_id, group.attempt, verdict)
        return verdict

    def _check_content(self, entry: Entry, group: Group) -> None:
        expected = self._ledger.rules.trajectories_per_sample
        if group.sample_id != entry.assignment.sample.sample_id:
            raise Refusal("bad_group", f"{group.group_id} was leased with another sample")
        if group.responses.indices != list(range(expected)):
            raise Refusal("bad_group", f"{group.group_id} needs trajectories 0 to {expected - 1}")
        if FinishReason.ABORT in group.responses.finish_reasons:
            raise Refusal("bad_group", f"{group.group_id} has an aborted trajectory")

    @handles(p.GiveBack)
    def give_back(self, request: p.GiveBack, call: Call) -> p.Done:
        is_quarantined = self._recorder.do(
            self._ledger.give_back,
            request.owner,
            request.group_id,
            request.attempt,
            request.blame,
            one_line(request.reason),
            call.now,
        )
        what = "quarantined" if is_quarantined else "given back"
        logger.warning("%s %s: %s", request.group_id, what, request.reason)
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.WatchWeights)
    def watch_weights(self, request: p.WatchWeights, call: Call) -> Held[p.Announcement]:
        def announcement(update: WeightUpdate | None) -> p.Announcement:
            serial = self._recorder.announcements.serial
            return p.Announcement(serial=serial, update=update, finished=self._recorder.is_finished)

        def answer(now: float) -> p.Announcement | None:
            update = self._recorder.announcements.newer_than(request.seen_serial, request.owner)
            return (
                announcement(update) if update is not None or self._recorder.is_finished else None
            )

        return Held(answer, lambda: announcement(None))

    @handles(p.AckWeights)
    def ack_weights(self, request: p.AckWeights, call: Call) -> p.Done:
        owner = request.owner
        self._recorder.do(self._ledger.serve, owner, request.history, request.version)
        self._recorder.refreshed.add(owner)
        self._evaluations.note_push(owner, request.history, request.version, request.is_pinned)
        return p.Done(finished=self._recorder.is_finished)


def _read(content: bytes) -> Group:
    try:
        return read(content)
    except ProtocolError as error:
        raise Refusal("bad_group", str(error)) from error
