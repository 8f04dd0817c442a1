"""What a run reports while it lasts: gauges for the live view, rows of metrics, log lines."""

import enum
import logging
import time
from collections import deque

from common.config import RunConfig
from common.metrics import DRIFT, EVALUATION, LEARNER, PARTS
from learner.checkpoint import Checkpointer
from learner.feed import Feed
from learner.figures.metrics import MetricsLog
from learner.figures.trained import TrainedLog
from learner.measuring.evaluation import Accuracy
from learner.measuring.heldout import Measured
from learner.push.pusher import Pusher
from learner.trainer import StepResult

logger = logging.getLogger(__name__)
_RECENT_STEPS = 20  # whose mean time foretells the end


class Phase(enum.IntEnum):
    """Where a run is, by the numbers that `deploy.showing` reads; it names them all."""

    STARTING = 0
    TRAINING = 2
    MEASURING_AFTER = 3
    DONE = 4
    PAUSED = 5


class Doing(enum.IntEnum):
    """What a learner does while it trains, by the numbers that `deploy.showing` reads."""

    COMPUTING = 0
    AWAITING_BATCH = 1
    PUSHING = 2


class Progress:
    """Reports how far a run is.

    Args:
        version: that training goes on from.
        log: None on ranks that write nothing.
        trained: None means that no tokens are kept.
        began: when the run did, on time.monotonic's clock.
    """

    def __init__(
        self,
        config: RunConfig,
        feed: Feed,
        pusher: Pusher,
        checkpointer: Checkpointer,
        version: int,
        log: MetricsLog | None,
        trained: TrainedLog | None,
        began: float,
    ) -> None:
        self._config = config
        self._feed = feed
        self._pusher = pusher
        self._checkpointer = checkpointer
        self._log = log
        self._trained = trained
        self._began = began
        self._gauges: dict[str, float] = {"phase": Phase.STARTING, "step": version}
        self._pushing_s = 0.0  # total seconds in pushes up to the last step
        self._saving_s = 0.0  # total seconds in checkpoints up to the last step
        self._recent_s: deque[float] = deque(maxlen=_RECENT_STEPS)  # a step, with its wait

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def show(self, **gauges: float) -> None:
        self._gauges = {**self._gauges, **{name: float(v) for name, v in gauges.items()}}
        self._feed.set_gauges(self._gauges)

    def show_before(self, before: Accuracy | None) -> None:
        """Show the accuracy before training, once it is known."""
        if before is not None:
            self.show(full_accuracy_before=before.full, crop_accuracy_before=before.crop)

    def note_step(self, result: StepResult, wait_s: float, step_s: float) -> None:
        """Report a step.

        Args:
            wait_s: that its batch was waited for.
            step_s: that it took from then on, without pauses and waits for measurements.
        """
        row = self._row(result, wait_s, step_s)
        if self._log is not None:
            worst = result.worst_sample
            self._log.write(result.version, self.seconds, row, mismatch_worst_sample=worst)
            self._log.write_groups(result.version, result.groups)
        if self._trained is not None and result.rows is not None:
            self._trained.write(result.version, result.rows)
        self._recent_s.append(wait_s + step_s)
        mean_s = sum(self._recent_s) / len(self._recent_s)
        total_steps = self._feed.welcome.total_steps
        self.show(
            step=result.version,
            eta_s=mean_s * (total_steps - result.version),
            **{m.gauge: row.get(m.name, 0.0) for m in (*DRIFT, *LEARNER, *PARTS) if m.gauge},
        )
        logger.info(
            "step %d/%d: loss %.4f, grad norm %.2f, lr %.1e, staleness %d, %d trajectories of "
            "%.1f tokens, %.2f s and %.2f s of waiting",
            result.version, total_steps, row.get("learner/loss_nats", float("nan")),
            row.get("learner/grad_norm", float("nan")), row.get("learner/lr", 0.0),
            row.get("staleness/max_steps", 0), row["learner/trajectories"],
            row["learner/response_mean_tokens"], step_s, wait_s,
        )  # fmt: skip

    def note_accuracy(
        self, measured: Measured, accuracy: Accuracy, health: dict[str, float]
    ) -> None:
        """Report a measurement.

        Args:
            health: what the gates made of it.
        """
        figures = {
            "evaluation/version": measured.version,
            "evaluation/full_accuracy": accuracy.full,
            "evaluation/crop_accuracy": accuracy.crop,
            "evaluation/full_cut_share": accuracy.full_cut,
            "evaluation/crop_cut_share": accuracy.crop_cut,
            "evaluation/samples": accuracy.samples,
            "evaluation/stall_s": measured.waited_s,
            "evaluation/duration_s": measured.seconds,
            **health,
        }
        if self._log is not None:
            self._log.write(measured.version, self.seconds, figures)
        if measured.when == "before":
            self.show_before(accuracy)
        self.show(**{m.gauge: figures[m.name] for m in EVALUATION if m.gauge})
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

    def _row(self, result: StepResult, wait_s: float, step_s: float) -> dict[str, float]:
        """A step's figures with the seconds that only the order of events knows."""
        total_s = wait_s + step_s
        row = result.metrics | {
            "learner/step_s": step_s,
            "learner/wait_batch_s": wait_s,
            "learner/idle_share": wait_s / total_s,
            "learner/tokens_per_s": result.metrics["learner/tokens"] / total_s,
        }
        if self._pusher.publish_s is not None:
            row["sync/publish_s"] = self._pusher.publish_s
            row["sync/stall_s"] = self._pusher.stall_s - self._pushing_s
            self._pushing_s = self._pusher.stall_s
        if self._config.checkpoint.every_steps:
            row["checkpoint/stall_s"] = self._checkpointer.stall_s - self._saving_s
            self._saving_s = self._checkpointer.stall_s
        return row
