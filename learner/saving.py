"""Checkpoints of a run, each committed by the broker before it is valid."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import RunConfig
from common.errors import BrokerUnavailable, CheckpointError, ProtocolError
from common.rendering import Renderer
from learner.checkpoint import Checkpointer, roll_back_targets
from learner.feed import Feed
from learner.interrupt import Interrupted
from learner.trainer import Trainer

logger = logging.getLogger(__name__)
LAST_CALLS_S = 5.0  # for the broker's answers after an interruption


class CommittingCheckpointer(Checkpointer):
    """Writes checkpoints and has the broker commit each, on the thread that writes it."""

    def __init__(
        self, folder: Path, trainer: Trainer, renderer: Renderer, config: RunConfig, feed: Feed
    ) -> None:
        super().__init__(folder, trainer, renderer, config, self._tell_broker)
        self._feed = feed
        self._broker_timeout_s = feed.request_timeout_s
        self._is_telling = False

    def finish(self) -> None:
        """Wait for the files as long as they take, and for the broker no longer than it may."""
        waited_s = 0.0
        while not self.wait(LAST_CALLS_S):
            waited_s = waited_s + LAST_CALLS_S if self._is_telling else 0.0
            if waited_s >= self._broker_timeout_s:
                self._feed.cancel_calls()  # the call began when there was more time

    def try_to_save(self) -> None:
        """Save at an early end, if disk and broker answer soon.

        A checkpoint that the broker has not committed is not valid.
        """
        self._broker_timeout_s = LAST_CALLS_S
        self.hurry()
        for act in (self.finish, self.save, self.finish):
            try:
                act()
            except (BrokerUnavailable, ProtocolError, CheckpointError, Interrupted) as error:
                logger.warning("no checkpoint: %s", error)

    def agree_on_target(self, choose: Callable[[Sequence[int]], int | None]) -> int | None:
        """The version to go back to, as rank 0 chooses it; all ranks call it.

        Args:
            choose: from the versions that can be gone back to, oldest first.

        Returns:
            None when there is none.
        """
        self.finish()  # rank 0 knows what it has written by now
        target = choose(roll_back_targets(self._folder)) if self._ranks.writes else None
        agreed = self._ranks.agree(-1 if target is None else target)
        return None if agreed < 0 else agreed

    def _tell_broker(self, step: int, oldest: int) -> None:
        self._is_telling = True
        try:
            self._feed.call(lambda broker: broker.commit(step, oldest), self._broker_timeout_s)
        finally:
            self._is_telling = False
