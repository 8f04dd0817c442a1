"""Requests of the learner: batches, checkpoints, pushes, the end."""

import logging

from broker import protocol as p
from broker.ledger.entry import Shard
from broker.ledger.evaluations import Evaluations
from broker.ledger.refusal import Refusal
from broker.service.handlers import Call, Held, handles
from broker.service.recorder import LedgerRecorder, one_line
from broker.storage.store import Damaged

logger = logging.getLogger(__name__)
_PAGE_SHARE = 0.5  # share of a frame that the groups of one reply may fill


class LearnerRequests:
    """Handlers of the requests that the learner makes."""

    def __init__(
        self, recorder: LedgerRecorder, max_frame_bytes: int, evaluations: Evaluations
    ) -> None:
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._evaluations = evaluations
        self._max_frame_bytes = max_frame_bytes

    @handles(p.Resume)
    def resume(self, request: p.Resume, call: Call) -> p.Resumed:
        before = self._ledger.version
        history = self._recorder.do(self._ledger.rewind, request.owner, request.step)
        self._recorder.store.must_sync()
        self._recorder.is_stopping = False
        self._recorder.ended_because = ""  # if it still holds, it is found again
        if self._ledger.version < before:
            logger.warning("steps %d to %d are undone", request.step + 1, before)
        self._recorder.announcements.forget()
        self._evaluations.drop_all()
        return p.Resumed(history=history, version=self._ledger.version)

    @handles(p.TakeBatch)
    def take(self, request: p.TakeBatch, call: Call) -> Held[p.Batch]:
        def answer(now: float) -> p.Batch | None:
            shard = self._recorder.do(
                self._ledger.take, request.owner, request.step, request.rank, request.world_size
            )
            if shard is None:
                return None
            if request.first and request.batch_id != shard.batch_id:
                raise Refusal("fenced", f"step {request.step} was taken anew between two pages")
            return self._page_of(shard, request.first)

        return Held(answer, lambda: p.Batch(step=request.step, groups=()))

    def _page_of(self, shard: Shard, first: int) -> p.Batch | None:
        """Groups of a shard from `first` on, as many as fit; None means that one cannot be read."""
        groups: list[bytes] = []
        left = int(self._max_frame_bytes * _PAGE_SHARE)
        for entry in shard.entries[first:]:
            try:
                encoded = self._recorder.store.get(entry)
            except Damaged as error:
                logger.error("%s is issued again: %s", entry.group_id, error)
                self._recorder.do(self._ledger.lose, entry.group_id, entry.attempt)
                return None
            left -= len(encoded)
            if groups and left < 0:
                break
            groups.append(encoded)
        return p.Batch(
            step=shard.step,
            groups=tuple(groups),
            num_groups=len(shard.entries),
            batch_id=shard.batch_id,
            exhausted=shard.exhausted,
        )

    @handles(p.AckBatch)
    def acknowledge(self, request: p.AckBatch, call: Call) -> Held[p.Acknowledged]:
        def acknowledge() -> bool:
            before = self._ledger.version
            is_complete = self._recorder.do(
                self._ledger.acknowledge,
                request.owner,
                request.step,
                request.batch_id,
                {group_id: one_line(reason) for group_id, reason in request.refused.items()},
                request.rank,
            )
            if self._ledger.version > before:
                self._recorder.store.step_ended(self._ledger.needed())
                for group_id, reason in request.refused.items():
                    logger.warning("%s quarantined by the learner: %s", group_id, reason)
            return is_complete

        def answer(now: float) -> p.Acknowledged | None:
            return p.Acknowledged(step=request.step, is_complete=True) if acknowledge() else None

        return Held(answer, lambda: p.Acknowledged(step=request.step, is_complete=False))

    @handles(p.CommitStep)
    def commit(self, request: p.CommitStep, call: Call) -> p.Done:
        self._recorder.do(self._ledger.commit, request.step, request.oldest)
        self._recorder.store.committed(self._ledger.kept())
        self._recorder.store.must_sync()
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.AnnounceWeights)
    def announce(self, request: p.AnnounceWeights, call: Call) -> p.Done:
        update = request.update
        if self._recorder.announcements.announce(
            update, self._recorder.membership, self._ledger.history, self._ledger.version
        ):
            self._recorder.has_news = True
            names = ", ".join(update.recipients)
            logger.info("version %d, attempt %d to %s", update.version, update.attempt, names)
        return p.Done(finished=self._recorder.is_finished)

    @handles(p.WatchMembers)
    def watch_members(self, request: p.WatchMembers, call: Call) -> Held[p.Members]:
        def members() -> p.Members:
            servers = self._ledger.servers.all()
            found = {owner: self._recorder.membership.find(owner) for owner in sorted(servers)}
            return p.Members(
                acknowledged={name: servers[name, life] for name, life in found},
                ranks={owner[0]: member.ranks if member else 0 for owner, member in found.items()},
            )

        def answer(now: float) -> p.Members | None:
            is_enough = len(self._ledger.servers) >= request.at_least
            return members() if is_enough else None

        return Held(answer, members)

    @handles(p.Finish)
    def finish(self, request: p.Finish, call: Call) -> p.Done:
        if not self._recorder.is_finished:
            logger.info("finished: %s", request.reason)
        self._recorder.do(self._ledger.finish)
        self._evaluations.drop_all()
        self._recorder.is_stopping = self._recorder.has_news = True
        return p.Done(finished=True)
