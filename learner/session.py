"""One run of the learner, from the first push to the summary.

    push 0 | [ take > step > acknowledge > push ] x steps | push | save | finish | summary
           '- servers measure 0, and others in between -'        '- and the last -'

What servers have measured is looked at between two steps. Where they keep no copy of the weights
that they measure, the next push waits for them.

SIGTERM or Ctrl-C: the step under way is finished, then a checkpoint and the summary are written.
On a run folder with checkpoints it goes on from the newest, as if it had never ended:

    push k | [ take > step > ... ] x the other steps | ...
"""

import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from broker.protocol import Status
from common.config import RunConfig
from common.errors import (
    BrokerUnavailable,
    CheckpointError,
    ProtocolError,
    VisionOpdError,
    WeightSyncError,
)
from common.files import replace_json
from common.full_disk import when_there_is_room
from common.rendering import Renderer
from learner.checkpoint import Checkpointer, roll_back_targets
from learner.data_summary import data_summary
from learner.feed import Feed
from learner.figures.metrics import MetricsLog
from learner.health.gates import Verdict
from learner.health.monitor import HealthMonitor, HealthStop, RollBack, newest_good, stop
from learner.interrupt import Interrupted
from learner.measuring.evaluation import Accuracy, gap_closed
from learner.measuring.heldout import Heldout, Measured, When
from learner.push.pusher import Pusher
from learner.ranks import Ranks
from learner.trainer import StepResult, Trainer
from learner.views.inputs import PreparedBatch

logger = logging.getLogger(__name__)
_LOOK_S = 5.0  # between looks for servers without weights, while waiting for a batch
_LAST_WORDS_S = 5.0  # for the broker's answers after an interruption
_PAUSE_LOOK_S = 1.0  # between looks for the end of the run, while paused
_STARTING, _, _TRAINING, _MEASURING_AFTER, _DONE, _PAUSED = range(6)
_COMPUTING, _AWAITING_BATCH, _PUSHING = range(3)  # what it is doing, as `deploy.showing` reads it
_HAS_BATCH, _IS_USED_UP, _IS_INTERRUPTED = range(3)


class Session:
    """The order of events in a run; the parts do the work.

    Every rank has one, and all take the same way: what one of them learns by itself (a signal, the
    end of the data, an accuracy) is agreed upon before anybody acts on it.
    """

    def __init__(
        self,
        config: RunConfig,
        ranks: Ranks,
        trainer: Trainer,
        feed: Feed,
        publisher: Pusher,
        heldout: Heldout,
        metrics: MetricsLog | None,
        renderer: Renderer,
        watch: HealthMonitor,
        began: float,
    ) -> None:
        assert config.run.folder is not None
        self._config = config
        self._folder: Path = config.run.folder
        self._ranks = ranks
        self._watch = watch
        self._trainer = trainer
        self._feed = feed
        self._publisher = publisher
        self._heldout = heldout
        self._metrics = metrics
        self._renderer = renderer
        self._began = began
        self._total_steps = feed.welcome.total_steps
        self._stalled_s = 0.0  # in pushes, up to the last step
        self._saving_s = 0.0  # the same of checkpoints
        self._paused_s = 0.0  # in all
        self._recent_s: deque[float] = deque(maxlen=20)  # seconds a step, wait included
        self._checkpointer = Checkpointer(
            self._folder / "checkpoints", trainer, renderer, config, self._commit
        )
        self._commit_timeout_s = feed.request_timeout_s
        self._is_committing = False
        self._gauges: dict[str, float] = {"phase": _STARTING, "step": trainer.version}
        self._before = _accuracy_of(metrics and metrics.measured_at(0))
        self._after = _accuracy_of(metrics and metrics.measured_at(self._total_steps))
        self._pushed = -1  # version
        self._held_s = 0.0  # that pushes waited for measurements, in all
        self._heard_at = began  # when the broker gave its accounts, on time.monotonic's clock

    def run(self) -> None:
        with self._checkpointer:
            self._run()

    def _run(self) -> None:
        is_interrupted = False
        try:
            self._show_before()
            self._push()
            self._train()
            self._wait_for_push()
            self._checkpointer.save()  # whatever becomes of the last push
            self._order_last()
        except Interrupted as reason:
            is_interrupted = True
            logger.info("stopping after step %d: %s", self._trainer.version, reason or "asked to")
            self._heldout.abandon()
            self._try_to_save()
        except HealthStop:
            raise  # what it stopped for is not worth keeping
        except VisionOpdError:
            if self._ranks.world_size == 1:  # the others are somewhere else
                self._try_to_save()
            raise
        else:
            self._checkpointer.save()
            self._finish_writing()
            is_interrupted = not self._await_last()
        self._feed.expect_end()
        self._ranks.meet()  # before the first rank says it
        status = self._finish(is_interrupted) if self._ranks.writes else None
        self._show(phase=_DONE)
        if not self._ranks.writes:
            return
        summary = self._summary(status, is_interrupted)
        path = self._folder / "summary.json"
        when_there_is_room(
            lambda: replace_json(path, summary), path, lambda: self._feed.is_interrupted
        )
        logger.info("done: %s", ", ".join(f"{k} {_short(v)}" for k, v in summary.items()))

    # ---- training --------------------------------------------------------------------------------
    def _train(self) -> None:
        self._show(phase=_TRAINING)
        while self._trainer.version < self._total_steps:
            waited_from = time.monotonic()
            self._show(doing=_AWAITING_BATCH)
            batch = self._next_batch()
            waited_s = time.monotonic() - waited_from
            self._show(doing=_COMPUTING)
            if batch is None:
                logger.info("the data is used up after step %d", self._trainer.version)
                return
            self._heldout.show(self._trainer, "before")
            started = time.monotonic()
            stood_s = self._paused_s + self._held_s
            gradient = self._trainer.accumulate(batch)
            self._publisher.wait_for_snapshot()  # the push of the version before reads the weights
            result = self._trainer.update(gradient)
            verdict = self._watch.look(result.version, result.metrics, result.worst_sample)
            result.metrics.update(verdict.figures)
            self._obey(verdict, judged=-1)
            self._feed.acknowledge(batch)
            self._push()
            stood_s = self._paused_s + self._held_s - stood_s
            step_s = time.monotonic() - started - stood_s
            self._note_step(batch, result, waited_s, step_s)
            self._every_so_often(result.version)
            self._take_measurements()

    def _push(self, is_last: bool = False) -> None:
        version = self._trainer.version
        if version == self._total_steps and not is_last:
            return  # nobody trains on what they generate
        self._show(doing=_PUSHING)
        if self._ranks.world_size > 1:
            self._wait_for_push()  # what follows takes all ranks, or none
        is_measured = not is_last and self._is_due(version)
        self._held_s += self._heldout.wait_for_push(is_measured)
        self._publisher.push(version, is_measured)
        self._heldout.note_push(version)
        self._pushed = version
        if is_measured:
            self._heldout.order(version, "between" if version else "before")
        self._show(doing=_COMPUTING)

    def _is_due(self, version: int) -> bool:
        """Whether these weights are measured while training goes on."""
        if not self._heldout.is_measured:
            return False
        if version == 0:  # once a run, however often its learner is started
            return self._ranks.any(self._ranks.writes and self._before is None)
        every = self._config.evaluation.every_steps
        return bool(every) and version % every == 0

    def _wait_for_push(self) -> None:
        """Until the push under way is through. Raises Interrupted on all ranks if on any."""
        reason: Interrupted | None = None
        try:
            self._publisher.wait()
        except Interrupted as error:
            reason = error
        if self._ranks.any(reason is not None):
            raise reason or Interrupted("another rank is to stop")

    def _is_push_lost(self) -> bool:
        """As `_wait_for_push`, but a push that failed for good is told and no error."""
        is_lost = False
        try:
            self._wait_for_push()
        except WeightSyncError as error:  # the first rank's
            is_lost = True
            logger.warning("the last weights are not measured: %s", error)
            self._ranks.any(False)  # where the others are
        return self._ranks.any(is_lost)

    def _next_batch(self) -> PreparedBatch | None:
        """None when the data is used up. Raises Interrupted on all ranks if on any."""
        batch, state = None, _HAS_BATCH
        try:
            batch = self._own_batch()
        except Interrupted as error:
            if self._ranks.world_size == 1:
                raise
            reason, state = error, _IS_INTERRUPTED
        else:
            state = _HAS_BATCH if batch is not None else _IS_USED_UP
        agreed = self._ranks.agree(state)
        if agreed == _IS_INTERRUPTED:
            raise reason if state == agreed else Interrupted("another rank is to stop")
        return batch if agreed == _HAS_BATCH else None

    def _own_batch(self) -> PreparedBatch | None:
        limit_s = self._config.learner.batch_timeout_s
        started = time.monotonic()
        while True:
            left_s = limit_s - (time.monotonic() - started)
            try:
                return self._feed.next_batch(max(0.0, min(_LOOK_S, left_s)))
            except TimeoutError:
                if left_s <= _LOOK_S:
                    raise VisionOpdError(
                        f"no batch for step {self._trainer.version + 1} within {limit_s:g} s. Fix: "
                        "see the rollout logs; learner.batch_timeout_s sets the limit"
                    ) from None
                self._publisher.push_again_if_behind()

    # ---- health ----------------------------------------------------------------------------------
    def _obey(self, verdict: Verdict, judged: int = 0) -> None:
        """Do what a gate asks for, on all ranks: they have seen the same figures.

        Args:
            judged: the version of the weights that the figures are of, less that of their step.

        Raises:
            RollBack, HealthStop: this is the end, of this life or of the run.
        """
        self._show(health_alarms=self._watch.num_alarms)
        if verdict.action == "pause":
            self._pause()
        elif verdict.action in ("roll_back", "stop"):
            target = self._newest_good(verdict, judged)
            if verdict.action == "roll_back" and target is not None:
                raise RollBack(target, verdict.reasons)
            raise stop(verdict, target)

    def _newest_good(self, verdict: Verdict, judged: int) -> int | None:
        """The checkpoint to go back to, as the first rank sees it; None: there is none."""
        self._publisher.wait_for_snapshot()
        self._finish_writing()
        target: int | None = None
        if self._ranks.writes:  # it knows what it has written by now
            targets = roll_back_targets(self._folder / "checkpoints")
            target = newest_good(targets, verdict, judged)
        agreed = self._ranks.agree(-1 if target is None else target)
        return None if agreed < 0 else agreed

    def _pause(self) -> None:
        """Until SIGUSR1 comes, or the end of the run, to this process or another rank's."""
        began = time.monotonic()
        logger.warning("paused. To go on: kill -USR1 %d", os.getpid())
        self._watch.begin_pause()
        self._show(phase=_PAUSED)
        is_over = False
        while not is_over:
            is_mine = self._watch.wait_for_resume(_PAUSE_LOOK_S) or self._feed.is_over
            is_over = self._ranks.any(is_mine)
        self._show(phase=_TRAINING)  # after an interruption whoever asks for the next batch is told
        self._paused_s += time.monotonic() - began
        logger.info("going on after %.1f s", time.monotonic() - began)

    def _every_so_often(self, step: int) -> None:
        checkpoint_steps = self._config.checkpoint.every_steps
        if step == self._total_steps or not checkpoint_steps or step % checkpoint_steps:
            return
        # From a checkpoint on nobody has the weights before training any more.
        self._heldout.wait_for("before")
        self._take_measurements("before")  # others are of versions that have no checkpoint yet
        self._checkpointer.save(is_measured=self._is_due(step))

    # ---- checkpoints -----------------------------------------------------------------------------
    def _commit(self, step: int, oldest: int) -> None:
        """Tell the broker of a checkpoint; on the thread that writes it."""
        self._is_committing = True
        try:
            self._feed.call(lambda broker: broker.commit(step, oldest), self._commit_timeout_s)
        finally:
            self._is_committing = False

    def _try_to_save(self) -> None:
        """At an early end. Without the broker's word a checkpoint is worth nothing."""
        self._commit_timeout_s = _LAST_WORDS_S
        self._checkpointer.hurry()
        for act in (self._finish_writing, self._checkpointer.save, self._finish_writing):
            try:
                act()
            except (BrokerUnavailable, ProtocolError, CheckpointError, Interrupted) as error:
                logger.warning("no checkpoint: %s", error)

    def _finish_writing(self) -> None:
        """Files take as long as they take, the broker's word no longer than it may."""
        waited_s = 0.0
        while not self._checkpointer.wait(_LAST_WORDS_S):
            waited_s = waited_s + _LAST_WORDS_S if self._is_committing else 0.0
            if waited_s >= self._commit_timeout_s:
                self._feed.cancel_calls()  # it began when there was more time

    # ---- measuring -------------------------------------------------------------------------------
    def _show_before(self) -> None:
        """What an earlier life of this run has measured."""
        if self._before is not None:
            self._show(
                full_accuracy_before=self._before.full, crop_accuracy_before=self._before.crop
            )

    def _take_measurements(self, only: When | None = None) -> None:
        """Those that are there. Raises as `_obey`."""
        for measured in self._heldout.take(only):
            accuracy, is_between = measured.accuracy, measured.when == "between"
            score = None if accuracy is None else accuracy.full
            self._checkpointer.note_score(measured.version, score)
            if accuracy is None:
                continue
            if not is_between:
                self._keep(measured, accuracy)
            now = self._trainer.version
            figures = {"evaluation/full_accuracy": accuracy.full}
            verdict = self._watch.look(now, figures) if is_between else None
            self._note_accuracy(measured, accuracy, verdict.figures if verdict else {})
            if verdict is not None:
                self._obey(verdict, judged=measured.version - now)

    def _keep(self, measured: Measured, accuracy: Accuracy) -> None:
        if measured.when == "before":
            self._before = accuracy
            self._show_before()
        else:
            self._after = accuracy

    def _order_last(self) -> None:
        """Push the last weights, if nobody has them, and have them measured."""
        version = self._trainer.version
        is_known = self._ranks.any(self._after is not None)
        if not self._heldout.is_measured or is_known:
            return
        self._show(phase=_MEASURING_AFTER)
        if self._pushed != version:
            self._push(is_last=True)
        if self._is_push_lost():
            return
        self._heldout.order(version, "after")

    def _await_last(self) -> bool:
        """Until all is measured; false: the run was interrupted meanwhile. Raises as `_obey`."""
        self._heldout.show(self._trainer, "after")
        for when in ("before", "between", "after"):
            self._heldout.wait_for(when)
        self._take_measurements()
        is_over = self._ranks.any(self._feed.is_over)
        if is_over:
            self._heldout.abandon()
        return not is_over

    def _note_accuracy(
        self, measured: Measured, accuracy: Accuracy, health: dict[str, float]
    ) -> None:
        figures = {
            "evaluation/version": measured.version,
            "evaluation/full_accuracy": accuracy.full,
            "evaluation/crop_accuracy": accuracy.crop,
            "evaluation/full_cut_share": accuracy.full_cut,
            "evaluation/crop_cut_share": accuracy.crop_cut,
            "evaluation/samples": accuracy.samples,
            "evaluation/seconds": measured.waited_s,
            "evaluation/duration_s": measured.seconds,
            **health,
        }
        if self._metrics is not None:
            self._metrics.write(measured.version, time.monotonic() - self._began, figures)
        self._show(
            full_accuracy=accuracy.full,
            crop_accuracy=accuracy.crop,
            accuracy_version=measured.version,
        )
        logger.info(
            "of step %d: accuracy %.3f on full images, %.3f on crops (%d samples in %.1f s, of "
            "which training stood still for %.1f s)",
            measured.version, accuracy.full, accuracy.crop, accuracy.samples, measured.seconds,
            measured.waited_s,
        )  # fmt: skip
        if accuracy.full_cut or accuracy.crop_cut:
            logger.warning(
                "%.1f %% of the answers to full images and %.1f %% of those to crops were cut at "
                "evaluation.max_response_tokens = %d. Fix: raise it if the model ends them later",
                100 * accuracy.full_cut,
                100 * accuracy.crop_cut,
                self._config.evaluation.max_response_tokens,
            )

    # ---- figures ---------------------------------------------------------------------------------
    def _note_step(
        self, batch: PreparedBatch, result: StepResult, wait_s: float, step_s: float
    ) -> None:
        total_s = wait_s + step_s
        self._recent_s.append(total_s)
        m = dict(result.metrics)
        m |= {
            "learner/step_s": step_s,
            "learner/wait_batch_s": wait_s,
            "learner/idle_share": wait_s / total_s,
            "learner/tokens_per_s": m["learner/tokens"] / total_s,
        }
        if self._publisher.publish_s is not None:
            m["sync/publish_s"] = self._publisher.publish_s
            m["sync/stall_s"] = self._publisher.stall_s - self._stalled_s
            self._stalled_s = self._publisher.stall_s
        if self._config.checkpoint.every_steps:
            m["checkpoint/stall_s"] = self._checkpointer.stall_s - self._saving_s
            self._saving_s = self._checkpointer.stall_s
        elapsed_s = time.monotonic() - self._began
        worst = result.worst_sample
        if self._metrics is not None:
            self._metrics.write(batch.step, elapsed_s, m, mismatch_worst_sample=worst)
        mean_s = sum(self._recent_s) / len(self._recent_s)
        self._show(
            step=batch.step,
            loss_nats=m.get("learner/loss_nats", 0.0),
            tokens_per_s=m["learner/tokens_per_s"],
            idle_share=m["learner/idle_share"],
            wait_batch_s=wait_s,
            staleness_max=m.get("staleness/max_steps", 0),
            grad_norm=m.get("learner/grad_norm", 0.0),
            lr=m.get("learner/lr", 0.0),
            eta_s=mean_s * (self._total_steps - batch.step),
        )
        logger.info(
            "step %d/%d: loss %.4f, grad norm %.2f, lr %.1e, staleness %d, %d trajectories of "
            "%.1f tokens, %.2f s and %.2f s of waiting",
            batch.step, self._total_steps, m.get("learner/loss_nats", float("nan")),
            m.get("learner/grad_norm", float("nan")), m.get("learner/lr", 0.0),
            m.get("staleness/max_steps", 0), m["learner/trajectories"],
            m["learner/response_tokens_mean"], step_s, wait_s,
        )  # fmt: skip

    def _show(self, **gauges: float) -> None:
        self._gauges = {**self._gauges, **{k: float(v) for k, v in gauges.items()}}
        self._feed.set_gauges(self._gauges)

    # ---- the end ---------------------------------------------------------------------------------
    def _finish(self, is_interrupted: bool) -> Status | None:
        """Tell the broker that the run is over; its accounts, if it still answers."""
        reason = f"{'interrupted' if is_interrupted else 'done'} at step {self._trainer.version}"
        timeout_s = _LAST_WORDS_S if is_interrupted else self._feed.request_timeout_s
        try:
            status = self._feed.call(lambda broker: broker.status(), timeout_s)
            self._heard_at = time.monotonic()
            self._feed.call(lambda broker: broker.finish(reason), timeout_s)
        except (BrokerUnavailable, ProtocolError) as error:
            if not is_interrupted:
                raise
            logger.warning("the broker did not hear the end: %s", error)  # it may have gone first
            return None
        return status

    def _seconds(self, status: Status | None) -> float:
        """How long the run has lasted: by the broker's clock, which outlives the learner."""
        now = time.monotonic()
        return now - self._began if status is None else status.seconds + now - self._heard_at

    def _summary(self, status: Status | None, is_interrupted: bool) -> dict[str, Any]:
        before, after = self._before, self._after
        data = data_summary(status, is_interrupted)
        return {
            "full_accuracy_before": before and before.full,
            "full_accuracy_after": after and after.full,
            "crop_accuracy_before": before and before.crop,
            "crop_accuracy_after": after and after.crop,
            "full_cut_share_before": before and before.full_cut,
            "full_cut_share_after": after and after.full_cut,
            "crop_cut_share_before": before and before.crop_cut,
            "crop_cut_share_after": after and after.crop_cut,
            "version_before": before and before.version,
            "version_after": after and after.version,
            "gap_closed": gap_closed(before, after) if before and after else None,
            "steps": self._trainer.version,
            "seconds": round(self._seconds(status), 3),
            "max_staleness_seen": status.max_staleness_seen if status else None,
            **data,
            "skipped_steps": self._trainer.optimizer.skipped_steps,
            "seed": self._config.run.seed,
            "view": self._config.teacher.view,
            "max_staleness": self._config.broker.max_staleness,
            "heldout_samples": before.samples if before else 0,
            "interrupted": is_interrupted and data["data_fault"] is None,
        }


def _accuracy_of(row: dict[str, Any] | None) -> Accuracy | None:
    """A measurement as it stands in metrics.jsonl."""
    if row is None:
        return None
    full, crop, samples = (
        row[f"evaluation/{name}"] for name in ("full_accuracy", "crop_accuracy", "samples")
    )
    full_cut, crop_cut = (row.get(f"evaluation/{view}_cut_share", 0.0) for view in ("full", "crop"))
    return Accuracy(full, crop, samples, full_cut, crop_cut, row["step"])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
