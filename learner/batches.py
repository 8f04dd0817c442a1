"""The next batch, for all ranks or for none."""

import enum
import time

from common.errors import VisionOpdError
from learner.feed import Feed
from learner.interrupt import Interrupted
from learner.push.pusher import Pusher
from learner.ranks import Ranks
from learner.views.inputs import PreparedBatch

_LOOK_S = 5.0  # between looks for servers without weights


class _Found(enum.IntEnum):
    """What a rank's feed gave; the ranks agree on the greatest."""

    BATCH = 0
    END_OF_DATA = 1
    INTERRUPTION = 2


class Batches:
    """Takes batches from this rank's feed, in step with the other ranks.

    Args:
        pusher: brings weights to servers that have lost them, while a batch is waited for.
        timeout_s: seconds to wait for a batch.
    """

    def __init__(self, feed: Feed, ranks: Ranks, pusher: Pusher, timeout_s: float) -> None:
        self._feed = feed
        self._ranks = ranks
        self._pusher = pusher
        self._timeout_s = timeout_s

    def next(self, step: int) -> PreparedBatch | None:
        """This rank's share of the batch of `step`; None when the data is used up.

        Raises:
            Interrupted: this or another rank is to stop; on all ranks.
            VisionOpdError: none came in time.
        """
        batch: PreparedBatch | None = None
        reason = Interrupted("another rank is to stop")
        try:
            batch = self._own(step)
            found = _Found.END_OF_DATA if batch is None else _Found.BATCH
        except Interrupted as error:
            reason, found = error, _Found.INTERRUPTION
        agreed = self._ranks.agree(found)
        if agreed == _Found.INTERRUPTION:
            raise reason
        return batch if agreed == _Found.BATCH else None

    def _own(self, step: int) -> PreparedBatch | None:
        started = time.monotonic()
        while True:
            left_s = self._timeout_s - (time.monotonic() - started)
            try:
                return self._feed.next_batch(max(0.0, min(_LOOK_S, left_s)))
            except TimeoutError:
                if left_s <= _LOOK_S:
                    raise VisionOpdError(
                        f"no batch for step {step} within {self._timeout_s:g} s. Fix: see the "
                        "rollout logs; learner.batch_timeout_s sets the limit"
                    ) from None
                self._pusher.push_again_if_behind()
