"""One run of the learner, from the first push to the summary.

    push 0 | measure | [ take > step > acknowledge > push ] x steps | finish | measure | summary

SIGTERM or Ctrl-C: the step under way is finished, then a checkpoint and the summary are written.
On a run folder with checkpoints it goes on from the newest, as if it had never ended:

    push k | [ take > step > ... ] x the other steps | ...
"""

import functools
import logging
import os
import signal
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from broker.protocol import Status
from common.config import RunConfig
from common.errors import BrokerUnavailable, ProtocolError, VisionOpdError
from common.images import ImageStore
from common.rendering import Renderer
from learner.checkpoint import find_checkpoint, restore, save_checkpoint
from learner.evaluation import Accuracy, gap_closed
from learner.expectations import Expectations
from learner.feed import Feed, Interrupted
from learner.heldout import Heldout
from learner.inputs import PreparedBatch
from learner.metrics import MetricsLog
from learner.model import choose_device, load_student, named_weights, prompt_positions
from learner.preparation import Preparation
from learner.prompts import PromptViews
from learner.publisher import Publisher, snapshot_of, weight_folder
from learner.scenes import write_json
from learner.trainer import StepResult, Trainer

logger = logging.getLogger(__name__)
_LOOK_S = 5.0  # between looks for servers without weights, while waiting for a batch
_LAST_WORDS_S = 5.0  # for the broker's answers after an interruption
_STARTING, _MEASURING_BEFORE, _TRAINING, _MEASURING_AFTER, _DONE = range(5)


def run(config: RunConfig, began: float) -> None:
    """Train as configured and write the run folder.

    Args:
        began: when the process started, on time.monotonic's clock.

    Raises:
        VisionOpdError: ConfigError, CheckpointError, BrokerUnavailable, WeightSyncError, or no
            batch in time.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    assert config.run.folder is not None and config.data.train is not None  # main has checked
    if config.learner.threads is not None:
        torch.set_num_threads(config.learner.threads)
    torch.manual_seed(config.run.seed)
    checkpoint = find_checkpoint(config.run.folder / "checkpoints", config)
    step = 0 if checkpoint is None else checkpoint.version
    start = config.model.path if checkpoint is None else str(checkpoint.path)
    model = load_student(
        config.model.model_copy(update={"path": start}), choose_device(config.learner.device)
    )
    positions = functools.partial(prompt_positions, model)
    renderer = Renderer(config.model.path)
    views = PromptViews(renderer, ImageStore(config.data.train.parent), config.teacher, positions)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    preparation = Preparation(config, renderer, views, vocabulary)
    member_id = f"learner-{os.environ.get('RANK', '0')}"
    feed = Feed(config, config.broker.address, member_id, preparation, step)
    _interrupt_on_signals(feed)
    heldout = Heldout(config, positions, lambda: feed.is_interrupted)
    with ExitStack() as stack:
        stack.enter_context(feed)
        metrics = MetricsLog(config.run.folder, step)
        stack.callback(metrics.close)
        publisher = stack.enter_context(
            Publisher(
                config.weights,
                feed,
                feed.resumed.history,
                snapshot_of(config.weights, named_weights(model)),
                config.rollout.servers,
                config.rollout.start_timeout_s,
                heartbeat_s=min(2.0, config.broker.member_timeout_s / 4),
                checks=Expectations(config, model, renderer, positions),
                files=weight_folder(config.weights, config.run.folder, model),
                is_interrupted=lambda: feed.is_interrupted,
            )
        )
        trainer = Trainer(
            config,
            model,
            feed.welcome.total_steps,
            renderer.tokenizer.pad_token_id,
            renderer.vision_token_ids,
            before_update=publisher.wait_for_snapshot,
        )
        if checkpoint is not None:
            restore(checkpoint, trainer)
            logger.info("going on from %s", checkpoint.path)
        began -= metrics.time_s
        Session(config, trainer, feed, publisher, heldout, metrics, renderer, began).run()


class Session:
    """The order of events in a run; the parts do the work."""

    def __init__(
        self,
        config: RunConfig,
        trainer: Trainer,
        feed: Feed,
        publisher: Publisher,
        heldout: Heldout,
        metrics: MetricsLog,
        renderer: Renderer,
        began: float,
    ) -> None:
        assert config.run.folder is not None
        self._config = config
        self._folder: Path = config.run.folder
        self._trainer = trainer
        self._feed = feed
        self._publisher = publisher
        self._heldout = heldout
        self._metrics = metrics
        self._renderer = renderer
        self._began = began
        self._total_steps = feed.welcome.total_steps
        self._stalled_s = 0.0  # in pushes, up to the last step
        self._recent_s: deque[float] = deque(maxlen=20)  # seconds a step, wait included
        self._saved_version = trainer.version
        self._gauges: dict[str, float] = {"phase": _STARTING, "step": trainer.version}
        self._before = _accuracy_of(metrics.measured_before)
        self._after: Accuracy | None = None

    def run(self) -> None:
        is_interrupted = False
        try:
            self._push()
            self._measure_before()
            self._train()
            self._publisher.wait()
        except Interrupted as reason:
            is_interrupted = True
            logger.info("stopping after step %d: %s", self._trainer.version, reason or "asked to")
            self._try_to_save()
        except VisionOpdError:
            self._try_to_save()
            raise
        else:
            self._save()
        status = self._finish(is_interrupted)
        if not is_interrupted:
            try:
                self._after = self._measure_all(_MEASURING_AFTER, "after")
            except Interrupted:
                is_interrupted = True
        self._show(phase=_DONE)
        summary = self._summary(status, is_interrupted)
        write_json(self._folder / "summary.json", summary)
        logger.info("done: %s", ", ".join(f"{k} {_short(v)}" for k, v in summary.items()))

    # ---- training --------------------------------------------------------------------------------
    def _train(self) -> None:
        self._show(phase=_TRAINING)
        while self._trainer.version < self._total_steps:
            waited_from = time.monotonic()
            batch = self._next_batch()
            if batch is None:
                logger.info("the data is used up after step %d", self._trainer.version)
                return
            started = time.monotonic()
            result = self._trainer.step(batch)
            self._feed.acknowledge(batch)
            self._push()
            self._note_step(batch, result, started - waited_from, time.monotonic() - started)
            self._every_so_often(result.version)

    def _push(self) -> None:
        if self._trainer.version < self._total_steps:  # nobody generates with the last weights
            self._publisher.push(self._trainer.version)

    def _next_batch(self) -> PreparedBatch | None:
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
                self._publisher.mend()

    def _every_so_often(self, step: int) -> None:
        if step == self._total_steps:
            return  # the end does both, with more samples
        checkpoint_steps = self._config.checkpoint.every_steps
        if checkpoint_steps and step % checkpoint_steps == 0:
            self._save()
        evaluation_steps = self._config.evaluation.every_steps
        if evaluation_steps and step % evaluation_steps == 0:
            started = time.monotonic()
            self._note_accuracy(self._heldout.measure_some(self._trainer.model), started)

    def _save(self, timeout_s: float | None = None) -> None:
        """Write a checkpoint, unless this version has one. Raises VisionOpdError."""
        if self._saved_version == self._trainer.version:
            return

        def commit(step: int, oldest: int) -> None:
            self._feed.call(
                lambda broker: broker.commit(step, oldest),
                timeout_s or self._feed.request_timeout_s,
            )

        save_checkpoint(
            self._folder / "checkpoints", self._trainer, self._renderer, self._config, commit
        )
        self._saved_version = self._trainer.version

    def _try_to_save(self) -> None:
        """At an early end. Without the broker's word a checkpoint is worth nothing."""
        try:
            self._save(_LAST_WORDS_S)
        except (BrokerUnavailable, ProtocolError) as error:
            logger.warning("no checkpoint of step %d: %s", self._trainer.version, error)

    # ---- measuring -------------------------------------------------------------------------------
    def _measure_before(self) -> None:
        """Once a run, however often its learner is started."""
        if self._before is None and self._trainer.version == 0:
            self._before = self._measure_all(_MEASURING_BEFORE, "before")
        if self._before is not None:
            self._show(
                full_accuracy_before=self._before.full, crop_accuracy_before=self._before.crop
            )

    def _measure_all(self, phase: int, when: str) -> Accuracy | None:
        self._show(phase=phase)
        started = time.monotonic()
        accuracy = self._heldout.measure_all(self._trainer.model)
        if self._feed.is_interrupted:
            raise Interrupted("asked to stop while measuring")
        self._heldout.show(self._trainer, when)
        self._note_accuracy(accuracy, started)
        return accuracy

    def _note_accuracy(self, accuracy: Accuracy | None, started: float) -> None:
        if accuracy is None:
            return
        figures = {
            "evaluation/full_accuracy": accuracy.full,
            "evaluation/crop_accuracy": accuracy.crop,
            "evaluation/samples": accuracy.samples,
            "evaluation/seconds": time.monotonic() - started,
        }
        step = self._trainer.version
        self._metrics.write(step, time.monotonic() - self._began, figures)
        self._show(full_accuracy=accuracy.full, crop_accuracy=accuracy.crop)
        logger.info(
            "after step %d: accuracy %.3f on full images, %.3f on crops (%d samples, %.1f s)",
            step, accuracy.full, accuracy.crop, accuracy.samples, figures["evaluation/seconds"],
        )  # fmt: skip

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
        self._metrics.write(batch.step, time.monotonic() - self._began, m)
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
            self._feed.call(lambda broker: broker.finish(reason), timeout_s)
        except (BrokerUnavailable, ProtocolError) as error:
            if not is_interrupted:
                raise
            logger.warning("the broker did not hear the end: %s", error)  # it may have gone first
            return None
        return status

    def _summary(self, status: Status | None, is_interrupted: bool) -> dict[str, Any]:
        before, after = self._before, self._after
        counts = status.counts if status else {}
        return {
            "full_accuracy_before": before and before.full,
            "full_accuracy_after": after and after.full,
            "crop_accuracy_before": before and before.crop,
            "crop_accuracy_after": after and after.crop,
            "gap_closed": gap_closed(before, after) if before and after else None,
            "steps": self._trainer.version,
            "seconds": round(time.monotonic() - self._began, 3),
            "max_staleness_seen": status.max_staleness_seen if status else None,
            "trajectories_trained": counts.get("trajectories_trained"),
            "trajectories_expired": counts.get("trajectories_expired"),
            "skipped_steps": self._trainer.optimizer.skipped_steps,
            "seed": self._config.run.seed,
            "view": self._config.teacher.view,
            "max_staleness": self._config.broker.max_staleness,
            "heldout_samples": before.samples if before else 0,
            "interrupted": is_interrupted,
        }


def _accuracy_of(row: dict[str, Any] | None) -> Accuracy | None:
    """A measurement as it stands in metrics.jsonl."""
    if row is None:
        return None
    figures = (row[f"evaluation/{name}"] for name in ("full_accuracy", "crop_accuracy", "samples"))
    return Accuracy(*figures)


def _interrupt_on_signals(feed: Feed) -> None:
    """The first SIGTERM or SIGINT interrupts the feed, the second ends the process at once."""

    def on_signal(number: int, _frame: object) -> None:
        if feed.is_interrupted:
            os._exit(128 + number)
        feed.interrupt()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
