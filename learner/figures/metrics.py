"""RUN/metrics.jsonl and RUN/tensorboard: one JSON object a step, one a measurement.

Every row has "step" (the version that the row describes; 0: before training) and "time_s" (seconds
since the learner began). Other keys are there when they apply; values are finite numbers or null,
and one is a text. A learner that goes on from a checkpoint removes the rows of the steps that are
undone, and counts seconds on from the last row that stays: there is one training row a step, and
time only grows. The clock of a process does not go back when a health gate has it go back to a
checkpoint.

A training row (steps 1, 2, ...):
    learner/loss_nats             the objective, weighted and aggregated as configured
    learner/divergence_nats       mean over tokens, unweighted
    learner/mismatch_kl_nats      KL(rollout || student) at the sampled tokens (estimate, >= 0)
    learner/mismatch_kl_worst_nats    the same of the sample where it is largest, and
    learner/mismatch_worst_sample     its sample_id, a text: was it shown another picture or prompt?
    learner/mismatch_kl_outlier_nats  the same figure if it is over 50 times the mean of the step's
                                      other samples, else 0
    learner/logprob_difference_mean_nats, learner/logprob_difference_max_nats
                                  |student's - rollout's| log-prob of the sampled tokens
    learner/ratio_mean            mean of p_student / p_rollout, before truncation
    learner/ratio_max             its largest value
    learner/ratio_clipped_share   share of tokens whose importance weight was truncated
    learner/entropy_nats          mean entropy of the student at the response tokens
    learner/teacher_gain_nats     mean of teacher's minus student's log-prob of the sampled token;
                                  the student's is normalised without the tokens that rollout may
                                  not sample, the teacher's over the whole vocabulary
    learner/grad_norm             before clipping; null where it was not finite
    learner/skipped_steps         so far, because of a gradient norm that was not finite
    learner/lr                    after roll-backs, times roll_back_lr_factor for each
    learner/response_tokens_mean  tokens a trajectory
    learner/groups, learner/trajectories, learner/tokens    trained on in this step
    learner/refused_groups        turned down in this step
    learner/step_s                seconds of the step, without the wait for its batch and pauses
    learner/wait_batch_s          seconds that the learner waited for this batch
    learner/idle_share            wait_batch_s / (wait_batch_s + step_s)
    learner/tokens_per_s          response tokens over wait_batch_s + step_s
    staleness/max_steps, staleness/mean_steps               over the step's trajectories
    sync/publish_s                seconds of the last completed weight push
    sync/stall_s                  seconds that pushes kept the learner waiting in this step
    checkpoint/stall_s            seconds that saving kept this step waiting, before it began (not
                                  in step_s); if checkpoint.every_steps is set
    health/divergence_ratio, health/entropy_ratio, health/length_ratio, health/mismatch_ratio,
    health/sample_ratio           a gate's figure over what it is compared with: its baseline, or
                                  its bound (mismatch, sample); once that is known
    health/action                 what the gates asked for at this step: 0 nothing, 1 warn, 2 pause,
                                  3 roll back, 4 stop; absent if all are off
    time/teacher_forward_s        parts of step_s: all of the teacher, contrast pictures and token
                                  weights included
    time/vision_s                 the student's vision tower, forward; the teacher's is in
                                  teacher_forward_s
    time/student_forward_s        the rest of the student's forward pass
    time/objective_s, time/backward_s, time/optimizer_s, time/teacher_update_s
                                  the others; backward_s is that of the model, vision tower
                                  included, since objective_s makes the logits' gradient. Together
                                  these parts never exceed step_s

A measuring row (step 0, every evaluation.every_steps, and the last step). Rollout servers measure
while training goes on: it stands where it was known, after rows of later steps perhaps. "step" is
the version that answered:
    evaluation/version            the same
    evaluation/full_accuracy, evaluation/crop_accuracy      shares of held-out samples
    evaluation/full_cut_share, evaluation/crop_cut_share    shares of these answers that were cut at
                                  evaluation.max_response_tokens; they are judged as they stand
    evaluation/samples            how many samples they were measured on
    evaluation/seconds            that the learner stood still or worked for it
    evaluation/duration_s         from its order to the last answer
    health/accuracy_ratio, health/action                    in between: accuracy over its best
"""

import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.files import replace_text, whole_lines
from common.full_disk import append_whole, when_there_is_room
from learner.figures.tensorboard import TensorboardFile

logger = logging.getLogger(__name__)
Row = dict[str, Any]


class MetricsLog:
    """The log of a run's figures: RUN/metrics.jsonl, and the same in RUN/tensorboard.

    On a full disk it waits for room.

    Args:
        step: that the run goes on from; rows of later steps are removed.
        is_over: asked while it waits: whether to give up, with DiskFull.
    """

    def __init__(
        self, run_folder: Path, step: int = 0, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._path = run_folder / "metrics.jsonl"
        self._is_over = is_over
        when_there_is_room(lambda: run_folder.mkdir(parents=True, exist_ok=True), run_folder)
        rows = when_there_is_room(lambda: _keep_rows(self._path, step), self._path, is_over)
        # The time of the last row that stays.
        self.time_s: float = max((row["time_s"] for row in rows), default=0.0)
        self._measured = {row["step"]: row for row in rows if "evaluation/full_accuracy" in row}
        self._file = when_there_is_room(lambda: io.FileIO(self._path, "a"), self._path, is_over)
        self._tensorboard = _open_tensorboard(run_folder / "tensorboard", step, is_over)

    def measured_at(self, step: int) -> Row | None:
        """The measurement of that version by an earlier life of the run, if it was made."""
        return self._measured.get(step)

    def write(self, step: int, time_s: float, metrics: Mapping[str, float], **texts: str) -> None:
        """Append a row.

        Args:
            texts: go into the row as learner/KEY, those that are not empty.
        """
        figures = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        named = {f"learner/{key}": text for key, text in texts.items() if text}
        row = {"step": step, "time_s": round(time_s, 3), **figures, **named}
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        when_there_is_room(lambda: append_whole(self._file, line), self._path, self._is_over)
        if self._tensorboard is not None:
            self._tensorboard.write(step, figures)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _keep_rows(path: Path, step: int) -> list[Row]:
    """Leave only whole rows of steps up to `step` in the file, and return them."""
    if not path.exists():
        return []
    kept = [(line, row) for line in whole_lines(path) if (row := json.loads(line))["step"] <= step]
    replace_text(path, "".join(line for line, _ in kept))
    return [row for _, row in kept]


def _open_tensorboard(
    folder: Path, step: int, is_over: Callable[[], bool]
) -> TensorboardFile | None:
    try:
        return TensorboardFile(folder, step, is_over)
    except ImportError:
        logger.info("tensorboard is not installed: metrics.jsonl only")
        return None
