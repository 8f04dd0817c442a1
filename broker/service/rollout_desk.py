"""What rollout servers ask for: leases, a place for their groups, news of the weights."""

import logging
from collections.abc import Iterable

from pydantic import BaseModel

from broker import protocol as p
from broker.ledger.entry import Entry, Owner, Receipt, Rules, lease_of
from broker.ledger.evaluations import Evaluations
from broker.ledger.refusal import Refusal, refused_for
from broker.service.counter import BooksBroken, Counter, Handler, PollMaker, one_line
from broker.service.polls import Answer, Empty
from common.errors import ProtocolError
from common.group import Group
from common.group_batch import read
from common.types import FinishReason, WeightUpdate

logger = logging.getLogger(__name__)


class RolloutDesk:
    def __init__(self, counter: Counter, evaluations: Evaluations) -> None:
        self._counter = counter
        self._evaluations = evaluations
        self.handlers: dict[type[BaseModel], Handler] = {
            p.SubmitGroups: self._on_submit,
            p.GiveBack: self._on_give_back,
            p.AckWeights: self._on_ack_weights,
        }
        self.poll_makers: dict[type[BaseModel], PollMaker] = {
            p.LeaseRequest: self._lease_poll,
            p.WatchWeights: self._watch_weights_poll,
        }

    def _lease_poll(self, request: p.LeaseRequest, request_id: bytes) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def answer(now: float) -> p.Leases | None:
            if self._counter.is_finished:
                return p.Leases(leases=(), finished=True)
            entries = self._counter.do(
                self._counter.ledger.lease,
                owner,
                request_id,
                request.max_groups,
                request.history,
                request.serving_version,
                now,
            )
            return _leases_of(entries, self._counter.ledger.rules) if entries else None

        return answer, lambda: p.Leases(leases=(), finished=self._counter.is_finished)

    def _on_submit(self, request: p.SubmitGroups, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        return p.Submitted(outcomes=tuple(self._outcome(owner, batch) for batch in request.groups))

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
        ledger, store = self._counter.ledger, self._counter.store
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
        verdict = self._counter.do(ledger.submit, owner, group.group_id, group.attempt, receipt)
        if verdict is not p.Verdict.ACCEPTED:
            logger.warning("%s, attempt %d: %s", group.group_id, group.attempt, verdict)
        return verdict

    def _check_content(self, entry: Entry, group: Group) -> None:
        expected = self._counter.ledger.rules.trajectories_per_sample
        if group.sample_id != entry.assignment.sample.sample_id:
            raise Refusal("bad_group", f"{group.group_id} was leased with another sample")
        if group.responses.indices != list(range(expected)):
            raise Refusal("bad_group", f"{group.group_id} needs trajectories 0 to {expected - 1}")
        if FinishReason.ABORT in group.responses.finish_reasons:
            raise Refusal("bad_group", f"{group.group_id} has an aborted trajectory")

    def _on_give_back(self, request: p.GiveBack, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        is_quarantined = self._counter.do(
            self._counter.ledger.give_back,
            owner,
            request.group_id,
            request.attempt,
            request.blame,
            one_line(request.reason),
            now,
        )
        what = "quarantined" if is_quarantined else "given back"
        logger.warning("%s %s: %s", request.group_id, what, request.reason)
        return p.Done(finished=self._counter.is_finished)

    def _watch_weights_poll(
        self, request: p.WatchWeights, request_id: bytes
    ) -> tuple[Answer, Empty]:
        owner = (request.member_id, request.incarnation)

        def announcement(update: WeightUpdate | None) -> p.Announcement:
            serial = self._counter.announcements.serial
            return p.Announcement(serial=serial, update=update, finished=self._counter.is_finished)

        def answer(now: float) -> p.Announcement | None:
            update = self._counter.announcements.newer_than(request.seen_serial, owner)
            return announcement(update) if update is not None or self._counter.is_finished else None

        return answer, lambda: announcement(None)

    def _on_ack_weights(self, request: p.AckWeights, now: float) -> BaseModel:
        owner = (request.member_id, request.incarnation)
        self._counter.do(self._counter.ledger.serve, owner, request.history, request.version)
        self._counter.refreshed.add(owner)
        self._evaluations.note_push(owner, request.history, request.version, request.is_pinned)
        return p.Done(finished=self._counter.is_finished)


def _read(content: bytes) -> Group:
    try:
        return read(content)
    except ProtocolError as error:
        raise Refusal("bad_group", str(error)) from error


def _leases_of(entries: Iterable[Entry], rules: Rules) -> p.Leases:
    return p.Leases(leases=tuple(lease_of(entry, rules) for entry in entries))
