"""The step: student and teacher forward, objective, backward, clip, step, teacher, version + 1.

    batch --> micro-batches --> student(full image), with grad ---+
                            \\-> teacher(crop), without grad ------+--> objective --> backward
                                                                                      | all of them
    version + 1 <-- teacher moves <-- optimizer step <-- clip by the global norm <----+

It knows no broker: what comes in is a prepared batch, what goes out are new weights and figures.
The same batches in the same order give the same weights.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import RunConfig
from learner.inputs import PreparedBatch, PreparedGroup, PromptView
from learner.micro_batches import split_into_micro_batches
from learner.model import response_hidden_states
from learner.objective import (
    LOG_RATIO_LIMIT,
    HeadInputs,
    ObjectiveResult,
    ResponseTokens,
    SamplingLaw,
    TokenFigures,
    join_figures,
    objective,
    token_shares,
)
from learner.optim import Optimizer
from learner.prefix import build_rows
from learner.stopwatch import Stopwatch
from learner.teacher import Teacher

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class StepResult:
    version: int  # of the weights after the step
    is_updated: bool  # false: no usable group, or a gradient that was not finite
    metrics: dict[str, float]  # keys as in `learner.metrics`


class Trainer:
    """Owns student, teacher and optimizer.

    Args:
        model: the student with float32 parameters, on its device.
        total_steps: length of the learning-rate schedule.
        pad_token_id: fills rows up; never an image token.
        banned_token_ids: what rollout may not sample.
        before_update: called when the weights are about to change.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Any,
        total_steps: int,
        pad_token_id: int,
        banned_token_ids: Sequence[int] = (),
        before_update: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._pad_token_id = pad_token_id
        self._before_update = before_update
        self._dtype = DTYPES[config.model.dtype]
        self._device = next(model.parameters()).device
        banned = torch.tensor(list(banned_token_ids), dtype=torch.int64, device=self._device)
        self._law = SamplingLaw(config.rollout.temperature, banned)
        self.model = model
        self.teacher = Teacher(model, config.teacher.policy, config.teacher.ema_rate)
        self.optimizer = Optimizer(model.parameters(), config.optimizer, total_steps)
        self.version = 0

    def step(self, batch: PreparedBatch) -> StepResult:
        """Train on one batch. Version `batch.step - 1` becomes version `batch.step`."""
        assert batch.step == self.version + 1, (batch.step, self.version)
        watch = Stopwatch(self._device)
        figures: list[TokenFigures] = []
        rollout_logprobs: list[Tensor] = []
        loss = 0.0
        for groups in self._micro_batches(batch):
            result, responses = self._forward(groups, batch.groups, watch)
            with watch.part("backward"):
                torch.autograd.backward(result.loss)
            loss += result.loss.item()
            figures.append(result.tokens)
            rollout_logprobs.append(responses.rollout_logprobs_T)
        self.version += 1
        if not figures:
            logger.warning("step %d: no usable group; no update made", batch.step)
            return StepResult(self.version, False, self._empty_metrics(batch))
        self._before_update()
        with watch.part("optimizer"):
            norm, lr, is_updated = self.optimizer.step(batch.step)
        with watch.part("teacher_update"):
            if is_updated:
                self.teacher.update()
        metrics = {
            "learner/loss_nats": loss,
            "learner/grad_norm": norm,
            "learner/lr": lr,
            **self._empty_metrics(batch),
            **_token_metrics(join_figures(figures), torch.cat(rollout_logprobs), self._clip),
            **_staleness_metrics(batch.groups),
            **{f"time/{name}_s": seconds for name, seconds in watch.seconds.items()},
        }
        return StepResult(self.version, is_updated, metrics)

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
            group = PreparedGroup("", student, teacher, (ids,), (rollout,), (0,))
            result, _ = self._forward([group], [group], Stopwatch(self._device))
            found.append(result.tokens.divergence.tolist())
        return found

    @property
    def _clip(self) -> float:
        return self._config.objective.importance_clip or math.inf

    def _micro_batches(self, batch: PreparedBatch) -> list[list[PreparedGroup]]:
        return split_into_micro_batches(
            batch.groups,
            self._config.learner.micro_batch_tokens,
            self._config.model.share_prefix,
        )

    def _forward(
        self, groups: Sequence[PreparedGroup], of_step: Sequence[PreparedGroup], watch: Stopwatch
    ) -> tuple[ObjectiveResult, ResponseTokens]:
        """The objective of some groups; `of_step` are all groups that share its denominators."""
        with watch.part("student_forward"):
            student = self._head_inputs(self.model, [g.student for g in groups], groups)
        with watch.part("teacher_forward"), torch.no_grad():
            teacher = self._head_inputs(self.teacher.model, [g.teacher for g in groups], groups)
        with watch.part("objective"):
            responses = self._responses(groups, of_step)
            result = objective(
                student,
                teacher,
                responses,
                self._config.objective,
                self._law,
            )
        return result, responses

    def _head_inputs(
        self, model: Any, prompts: Sequence[PromptView], groups: Sequence[PreparedGroup]
    ) -> HeadInputs:
        rows = build_rows(
            prompts,
            [group.responses for group in groups],
            self._pad_token_id,
            self._config.model.share_prefix,
        )
        hidden_ND = response_hidden_states(model, rows.to(self._device), self._dtype)
        return HeadInputs(hidden_ND, model.get_output_embeddings().weight)

    def _responses(
        self, groups: Sequence[PreparedGroup], of_step: Sequence[PreparedGroup]
    ) -> ResponseTokens:
        lengths = torch.tensor([len(ids) for group in groups for ids in group.responses])
        shares = token_shares(
            lengths,
            self._config.objective.aggregation,
            num_sequences=sum(len(group.responses) for group in of_step),
            num_tokens=sum(group.num_response_tokens for group in of_step),
            dtype=torch.float32,
        )
        ids = np.concatenate([ids for group in groups for ids in group.responses])
        logprobs = np.concatenate([values for g in groups for values in g.rollout_logprobs])
        return ResponseTokens(
            torch.from_numpy(ids).to(self._device),
            torch.from_numpy(logprobs).to(self._device),
            shares.to(self._device),
        )

    def _empty_metrics(self, batch: PreparedBatch) -> dict[str, float]:
        trajectories = sum(len(group.responses) for group in batch.groups)
        tokens = sum(group.num_response_tokens for group in batch.groups)
        return {
            "learner/groups": len(batch.groups),
            "learner/trajectories": trajectories,
            "learner/tokens": tokens,
            "learner/response_tokens_mean": tokens / max(1, trajectories),
            "learner/refused_groups": len(batch.refused),
            "learner/skipped_steps": self.optimizer.skipped_steps,
        }


def _token_metrics(
    tokens: TokenFigures, rollout_logprobs_T: Tensor, clip: float
) -> dict[str, float]:
    log_ratio_T = (tokens.student_logprob - rollout_logprobs_T).clamp(
        -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT
    )
    ratio_T = log_ratio_T.exp()
    figures = {
        "learner/divergence_nats": tokens.divergence.mean(),
        "learner/entropy_nats": tokens.entropy.mean(),
        "learner/mismatch_kl_nats": (ratio_T - 1 - log_ratio_T).mean(),
        "learner/ratio_mean": ratio_T.mean(),
        "learner/ratio_max": ratio_T.max(),
        "learner/ratio_clipped_share": (ratio_T > clip).float().mean(),
    }
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))


def _staleness_metrics(groups: Sequence[PreparedGroup]) -> dict[str, float]:
    ages = [age for group in groups for age in group.staleness]
    return {"staleness/max_steps": max(ages), "staleness/mean_steps": sum(ages) / len(ages)}
