"""One run of the learner, from the first push to the summary."""

import logging
import time

from common import spans
from common.config import RunConfig
from common.errors import VisionOpdError, WeightSyncError
from learner.batches import Batches
from learner.feed import Feed
from learner.health.gates import Verdict
from learner.health.monitor import HealthMonitor, HealthStop, RollBack, newest_good, stop
from learner.interrupt import Interrupted
from learner.measuring.heldout import Heldout, When
from learner.progress import Doing, Phase, Progress
from learner.push.pusher import Pusher
from learner.ranks import Ranks
from learner.saving import CommittingCheckpointer
from learner.summary import Outcome, declare_end, summary_of, write_summary
from learner.trainer import Trainer

logger = logging.getLogger(__name__)


class Session:
    """The order of events in a run; the parts do the work.

    Every rank has one, and all take the same way: what one of them learns by itself (a signal, the
    end of the data, an accuracy) is agreed upon before any of them acts on it.
    """

    def __init__(
        self,
        config: RunConfig,
        ranks: Ranks,
        trainer: Trainer,
        feed: Feed,
        publisher: Pusher,
        heldout: Heldout,
        checkpointer: CommittingCheckpointer,
        progress: Progress,
        monitor: HealthMonitor,
    ) -> None:
        self._config = config
        self._ranks = ranks
        self._trainer = trainer
        self._feed = feed
        self._batches = Batches(feed, ranks, publisher, config.learner.batch_timeout_s)
        self._publisher = publisher
        self._heldout = heldout
        self._checkpointer = checkpointer
        self._progress = progress
        self._monitor = monitor
        self._total_steps = feed.welcome.total_steps
        self._pushed = -1  # version of the last push
        self._stood_s = 0.0  # total seconds paused, or held up by measurements before a push

    def run(self) -> None:
        with self._checkpointer:
            self._run()

    def _run(self) -> None:
        is_interrupted = False
        try:
            self._progress.show_before(self._heldout.before)
            self._push()
            self._train()
            self._wait_for_push()
            self._checkpointer.save()  # whatever becomes of the last push
            self._order_last()
        except Interrupted as reason:
            is_interrupted = True
            logger.info("stopping after step %d: %s", self._trainer.version, reason or "asked to")
            self._heldout.abandon()
            self._checkpointer.try_to_save()
        except HealthStop:
            raise  # what it stopped for is not worth keeping
        except VisionOpdError:
            if self._ranks.world_size == 1:  # others are at another place of this function
                self._checkpointer.try_to_save()
            raise
        else:
            self._checkpointer.save()
            self._checkpointer.finish()
            is_interrupted = not self._await_last()
        self._feed.expect_end()
        self._ranks.meet()  # before rank 0 tells the broker
        self._end(is_interrupted)

    def _train(self) -> None:
        self._progress.show(phase=Phase.TRAINING)
        while self._trainer.version < self._total_steps:
            waited_from = time.monotonic()
            self._progress.show(doing=Doing.AWAITING_BATCH)
            step = self._trainer.version + 1
            with spans.span("wait_batch", step=step):
                batch = self._batches.next(step)
            waited_s = time.monotonic() - waited_from
            self._progress.show(doing=Doing.COMPUTING)
            if batch is None:
                logger.info("the data is used up after step %d", self._trainer.version)
                return
            self._heldout.show(self._trainer, "before")
            started, stood_s = time.monotonic(), self._stood_s
            with spans.span("gradient", step=step):
                gradient = self._trainer.accumulate(batch)  # beside the push before
            with spans.span("wait_snapshot", step=step):
                self._publisher.wait_for_snapshot()  # before the weights change
            with spans.span("update", step=step):
                result = self._trainer.update(gradient)
            verdict = self._monitor.look(result.version, result.metrics, result.worst_sample)
            result.metrics.update(verdict.figures)
            self._obey(verdict, judged=-1)
            with spans.span("acknowledge", step=step):
                self._feed.acknowledge(batch)
            self._push()
            spans.note("step", started, time.monotonic(), step=step)
            spans.flush()
            step_s = time.monotonic() - started - (self._stood_s - stood_s)
            self._progress.note_step(result, waited_s, step_s)
            self._save_if_due(result.version)
            self._take_measurements()

    # ---- pushes ----------------------------------------------------------------------------------
    def _push(self, is_last: bool = False) -> None:
        version = self._trainer.version
        if version == self._total_steps and not is_last:
            return  # no step trains on what servers would generate
        self._progress.show(doing=Doing.PUSHING)
        if self._ranks.world_size > 1:
            self._wait_for_push()  # what follows takes all ranks, or none
        is_measured = not is_last and self._heldout.is_due(version)
        self._stood_s += self._heldout.wait_for_push(is_measured)
        with spans.span("begin_push", version=version):
            self._publisher.push(version, is_measured)
        self._heldout.note_push(version)
        self._pushed = version
        if is_measured:
            self._heldout.order(version, "between" if version else "before")
        self._progress.show(doing=Doing.COMPUTING)

    def _wait_for_push(self) -> None:
        """Wait until the push under way is through. Raises Interrupted on all ranks if on any."""
        reason: Interrupted | None = None
        try:
            self._publisher.wait()
        except Interrupted as error:
            reason = error
        if self._ranks.any(reason is not None):
            raise reason or Interrupted("another rank is to stop")

    def _is_push_lost(self) -> bool:
        """Wait as `_wait_for_push`; return whether the push failed for good, and raise no error."""
        is_lost = False
        try:
            self._wait_for_push()
        except WeightSyncError as error:  # on rank 0 alone
            is_lost = True
            logger.warning("the last weights are not measured: %s", error)
            self._ranks.any(False)  # the others are in `_wait_for_push`
        return self._ranks.any(is_lost)

    # ---- health ----------------------------------------------------------------------------------
    def _obey(self, verdict: Verdict, judged: int = 0) -> None:
        """Do what a gate asks for, on all ranks: they have seen the same figures.

        Args:
            judged: the version of the weights that the figures are of, less that of their step.

        Raises:
            RollBack, HealthStop: this is the end, of this life or of the run.
        """
        self._progress.show(health_alarms=self._monitor.num_alarms)
        if verdict.action == "pause":
            self._monitor.begin_pause()  # who sees the phase may end it at once
            self._progress.show(phase=Phase.PAUSED)
            self._stood_s += self._monitor.pause(lambda: self._feed.is_over)
            self._progress.show(phase=Phase.TRAINING)  # the next batch tells of an interruption
        elif verdict.action in ("roll_back", "stop"):
            self._publisher.wait_for_snapshot()
            target = self._checkpointer.agree_on_target(
                lambda targets: newest_good(targets, verdict, judged)
            )
            if verdict.action == "roll_back" and target is not None:
                raise RollBack(target, verdict.reasons)
            raise stop(verdict, target)

    # ---- checkpoints and measurements ------------------------------------------------------------
    def _save_if_due(self, step: int) -> None:
        every = self._config.checkpoint.every_steps
        if step == self._total_steps or not every or step % every:
            return
        # A learner that goes on from here has not the weights before training any more.
        self._heldout.wait_for("before")
        self._take_measurements("before")  # others are of versions that have no checkpoint yet
        with spans.span("begin_checkpoint", step=step):
            self._checkpointer.save(is_measured=self._heldout.is_due(step))

    def _take_measurements(self, only: When | None = None) -> None:
        """Judge and report the measurements that have come. Raises as `_obey`."""
        for measured in self._heldout.take(only):
            accuracy, now = measured.accuracy, self._trainer.version
            self._checkpointer.note_score(measured.version, measured.score)
            if accuracy is None:
                continue
            if measured.when != "between":
                self._progress.note_accuracy(measured, accuracy, {})
                continue
            verdict = self._monitor.look(now, {"evaluation/full_accuracy": accuracy.full})
            self._progress.note_accuracy(measured, accuracy, verdict.figures)
            self._obey(verdict, judged=measured.version - now)

    def _order_last(self) -> None:
        """Push the last weights, if no server has them, and have them measured."""
        version = self._trainer.version
        if not self._heldout.is_measured or self._ranks.any(self._heldout.after is not None):
            return
        self._progress.show(phase=Phase.MEASURING_AFTER)
        if self._pushed != version:
            self._push(is_last=True)
        if not self._is_push_lost():
            self._heldout.order(version, "after")

    def _await_last(self) -> bool:
        """Wait until all is measured; false when the run was interrupted. Raises as `_obey`."""
        self._heldout.show(self._trainer, "after")
        for when in ("before", "between", "after"):
            self._heldout.wait_for(when)
        self._take_measurements()
        is_over = self._ranks.any(self._feed.is_over)
        if is_over:
            self._heldout.abandon()
        return not is_over

    def _end(self, is_interrupted: bool) -> None:
        """Declare the end to the broker, and write the summary."""
        accounts = None
        if self._ranks.writes:
            accounts = declare_end(self._feed, self._trainer.version, is_interrupted)
        self._progress.show(phase=Phase.DONE)
        if not self._ranks.writes:
            return
        outcome = Outcome(
            self._trainer.version, self._trainer.optimizer.skipped_steps, self._heldout.before,
            self._heldout.after, is_interrupted,
        )  # fmt: skip
        summary = summary_of(self._config, outcome, accounts, self._progress.seconds)
        assert self._config.run.folder is not None
        write_summary(self._config.run.folder, summary, lambda: self._feed.is_interrupted)
