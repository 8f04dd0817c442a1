"""The step in two halves: a batch becomes a gradient, and the gradient an update.

The trainer knows no broker: prepared batches come in, new weights and figures go out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.config import RunConfig
from common.image_text_model import ImageTextModel
from learner.figures.step_figures import Row, StepFigures, counts_of_step, worst_sample
from learner.figures.stopwatch import Stopwatch
from learner.figures.trained import StepRows, StepTokens
from learner.micro_batches import micro_batches, named_if_too_large
from learner.model.held import held, held_over
from learner.model.packing import pack
from learner.model.student import response_hidden_states
from learner.model.teacher import Teacher
from learner.model.transfer import sent
from learner.objective.head import HeadInputs, MixedHeads, head_of
from learner.objective.likeliest import Likeliest, likeliest_tokens
from learner.objective.loss import ObjectiveResult, objective
from learner.objective.tokens import ResponseTokens, SamplingLaw, TokenFigures, token_shares
from learner.optim import Optimizer
from learner.ranks import Ranks
from learner.scoring import Score, Scorer, multipliers_of
from learner.views.inputs import PreparedBatch, PreparedGroup, PromptView

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Gradient:
    """What is known of a batch whose gradient lies in the parameters.

    Every rank has the same figures; only its seconds are its own.
    """

    step: int
    is_empty: bool  # no rank had a usable group, so that no parameter has a gradient
    metrics: dict[str, float]  # keys as in `common.metrics`
    worst_sample: str  # id of the sample with the largest mismatch; empty without a token
    groups: list[Row]  # as `StepFigures.of_groups` makes them
    rows: StepRows | None  # this rank's tokens; None: there is none, or none are kept
    watch: Stopwatch  # has timed the first half of the step, and times the second


@dataclass(frozen=True)
class StepResult:
    version: int  # of the weights after the step
    is_updated: bool  # false after no usable group, or a gradient that was not finite
    metrics: dict[str, float]  # keys as in `common.metrics`
    worst_sample: str = ""  # as in `Gradient`
    groups: Sequence[Row] = ()  # as in `Gradient`
    rows: StepRows | None = None  # as in `Gradient`


@dataclass(frozen=True)
class Inspection:
    """What student and teacher, as they are, make of a group. T are all its response tokens."""

    tokens: TokenFigures
    student: Likeliest
    teacher: Likeliest


class Trainer:
    """Student, teacher and optimizer. A step has two halves:

        gradient = trainer.accumulate(batch)   the weights stay as they are
        result = trainer.update(gradient)      the weights change, version + 1

    Args:
        model: the student with float32 parameters, on its device; sharded if there are ranks.
        teacher: made of the student.
        total_steps: length of the learning-rate schedule.
        banned_token_ids: what rollout may not sample.
        ranks: the others that train the same model, each on groups of its own.
        filler: a small group for passes that only other ranks need; with ranks alone.
        keeps_tokens: results have the figures of each token; groups have their trajectories then.
    """

    def __init__(
        self,
        config: RunConfig,
        model: ImageTextModel,
        teacher: Teacher,
        total_steps: int,
        banned_token_ids: Sequence[int] = (),
        ranks: Ranks | None = None,
        filler: PreparedGroup | None = None,
        keeps_tokens: bool = False,
    ) -> None:
        self._config = config
        self._keeps_tokens = keeps_tokens
        self._dtype = DTYPES[config.model.dtype]
        self._device = ranks.device if ranks else next(model.parameters()).device
        self.ranks = ranks or Ranks(0, 1, self._device, timeout_s=0.0)
        self._filler = filler
        banned = torch.tensor(list(banned_token_ids), dtype=torch.int64, device=self._device)
        self._law = SamplingLaw(config.rollout.temperature, banned)
        self.model = model
        self.teacher = teacher
        self._scorer = Scorer(config, teacher, self._device, self._dtype, self._rounds)
        self.optimizer = Optimizer(model.named_parameters(), config.optimizer, total_steps)
        self.version = 0

    def step(self, batch: PreparedBatch) -> StepResult:
        """Train on one batch while nothing else reads the weights."""
        return self.update(self.accumulate(batch))

    def accumulate(self, batch: PreparedBatch) -> Gradient:
        """Add the batch's gradient to the parameters'. It reads weights and changes none.

        All ranks call it, each with its share of the batch. `update` must follow.
        """
        assert batch.step == self.version + 1, (batch.step, self.version)
        watch = Stopwatch(self._device)
        clip = self._config.objective.importance_clip
        figures = StepFigures(clip, self._device, batch.step)
        kept = StepTokens() if self._keeps_tokens else None
        groups, sequences, tokens = counts_of_step(batch, self.ranks)
        if groups:
            with named_if_too_large(self._config.learner.student_batch_tokens):
                self._backward(batch.groups, (sequences, tokens), figures, kept, watch)
        metrics = figures.metrics(batch, self.ranks)
        metrics["learner/skipped_steps"] = self.optimizer.skipped_steps
        rows = figures.of_groups(self.ranks)
        worst = worst_sample(rows)
        if groups:
            metrics["learner/mismatch_kl_worst_nats"] = worst.mismatch_kl
            metrics["learner/mismatch_kl_outlier_nats"] = worst.outlier_kl
        token_rows = None if kept is None else kept.rows()
        return Gradient(batch.step, not groups, metrics, worst.sample_id, rows, token_rows, watch)

    def update(self, gradient: Gradient) -> StepResult:
        """Clip, step the optimizer, move the teacher: version `step - 1` becomes version `step`.

        All ranks call it, once nothing reads the weights any longer.
        """
        self.version += 1
        if gradient.is_empty:
            logger.warning("step %d: no usable group; no update made", gradient.step)
            return StepResult(self.version, False, gradient.metrics)
        watch = gradient.watch
        with watch.part("optimizer"):
            norm, lr, is_updated = self.optimizer.step(gradient.step)
        with watch.part("teacher_update"):
            if is_updated:
                self.teacher.update(gradient.step)
        metrics = gradient.metrics | {
            "learner/grad_norm": norm,
            "learner/lr": lr,
            "learner/skipped_steps": self.optimizer.skipped_steps,
            **{f"time/{name}_s": seconds for name, seconds in watch.seconds.items()},
        }
        return StepResult(
            self.version,
            is_updated,
            metrics,
            gradient.worst_sample,
            gradient.groups,
            gradient.rows,
        )

    @torch.no_grad()
    def token_divergences(
        self,
        students: Sequence[PromptView],
        teachers: Sequence[PromptView],
        responses: Sequence[np.ndarray],
    ) -> list[list[float]]:
        """Nats between student and teacher at each token of one response a prompt."""
        found: list[list[float]] = []
        for student, teacher, ids in zip(students, teachers, responses, strict=True):
            rollout = np.zeros(len(ids), dtype=np.float32)  # weights do not matter here
            # The contrast is for weights, too.
            group = PreparedGroup("", student, teacher, (ids,), (rollout,), (0,), contrast=teacher)
            watch = Stopwatch(self._device)
            scores = self._scorer.scores([group], watch)
            result, _ = self._objective([group], scores, (1, len(ids)), watch)
            found.append(result.tokens.divergence.tolist())
        return found

    @torch.no_grad()
    def look(self, group: PreparedGroup, k: int) -> Inspection:
        """What a step would find about each token of a group, and the `k` likeliest in its place.

        Nothing is trained. There is one rank.
        """
        watch = Stopwatch(self._device)
        scores = self._scorer.scores([group], watch)
        student, teacher = self._heads([group], scores, watch)
        denominators = (len(group.responses), group.num_response_tokens)
        responses = self._responses([group], scores, denominators)
        result = objective(student, teacher, responses, self._config.objective, self._law)
        temperature = self._law.temperature
        return Inspection(
            result.tokens,
            likeliest_tokens(((1.0, student),), k, temperature),
            likeliest_tokens(teacher, k, temperature),
        )

    def _backward(
        self,
        groups: Sequence[PreparedGroup],
        denominators: tuple[int, int],
        figures: StepFigures,
        kept: StepTokens | None,
        watch: Stopwatch,
    ) -> None:
        """Run the teacher, then the student by micro-batches, forward and backward."""
        is_held = self._config.learner.offload and self.ranks.world_size == 1
        with held(self.teacher.model, is_held):
            scores = self._scorer.scores(groups, watch)
        if self._filler is not None:
            scores[self._filler.group_id] = self._scorer.filler_score(self._filler)
        parts = micro_batches(
            groups,
            lambda group: group.student,
            self._config.learner.student_batch_tokens,
            self._config.model.share_prefix,
        )
        for number, part in enumerate(held_over(self.model, self._rounds(parts), is_held)):
            result, responses = self._objective(part, scores, denominators, watch)
            is_filler = number >= len(parts)
            with watch.part("backward"):
                torch.autograd.backward(result.loss * (0.0 if is_filler else 1.0))
            if not is_filler:
                figures.add(result.loss, result.tokens, responses.rollout_logprobs_T, part)
                if kept is not None:
                    kept.add(result.tokens, part)

    def _rounds(self, parts: list[list[PreparedGroup]]) -> list[list[PreparedGroup]]:
        """Add fillers up to the rank with most micro-batches: collectives take all ranks."""
        missing = self.ranks.agree(len(parts)) - len(parts)
        if not missing:
            return parts
        assert self._filler is not None, "a learner with ranks needs a filler"
        return [*parts, *[[self._filler]] * missing]

    def _objective(
        self,
        groups: Sequence[PreparedGroup],
        scores: Mapping[str, Score],
        denominators: tuple[int, int],
        watch: Stopwatch,
    ) -> tuple[ObjectiveResult, ResponseTokens]:
        """The objective of some groups; sequences and tokens of the step are its denominators."""
        student, teacher = self._heads(groups, scores, watch)
        with watch.part("objective"):
            responses = self._responses(groups, scores, denominators)
            result = objective(student, teacher, responses, self._config.objective, self._law)
        return result, responses

    def _heads(
        self, groups: Sequence[PreparedGroup], scores: Mapping[str, Score], watch: Stopwatch
    ) -> tuple[HeadInputs, MixedHeads]:
        """The student, run on some groups, and the teacher, which has been."""
        share_prefix = self._config.model.share_prefix
        with watch.part("student_forward"):
            row = pack([g.student for g in groups], [g.responses for g in groups], share_prefix)
            row = row.to(self._device)
            vision = watch.part("vision")  # taken out of the student's part
            hidden_TD = response_hidden_states(self.model, row, self._dtype, vision)
        with watch.part("objective"):
            student = head_of(self.model, hidden_TD)
            return student, self._scorer.heads([scores[group.group_id] for group in groups])

    def _responses(
        self,
        groups: Sequence[PreparedGroup],
        scores: Mapping[str, Score],
        denominators: tuple[int, int],
    ) -> ResponseTokens:
        num_sequences, num_tokens = denominators
        lengths = torch.tensor([len(ids) for group in groups for ids in group.responses])
        shares_T = token_shares(
            lengths,
            self._config.objective.aggregation,
            num_sequences=num_sequences,
            num_tokens=num_tokens,
            dtype=torch.float32,
        )
        ids_T = np.concatenate([ids for group in groups for ids in group.responses])
        logprobs_T = np.concatenate([values for g in groups for values in g.rollout_logprobs])
        return ResponseTokens(
            sent(torch.from_numpy(ids_T), self._device),
            sent(torch.from_numpy(logprobs_T), self._device),
            sent(shares_T, self._device) * multipliers_of(scores, groups),
        )
