"""Some rows of the objective: their figures, and the derivative of their loss by the logits.

The divergence depends on the student's log-probabilities at a few ids alone. With slopes u there,
the derivative by the logits is u at these ids minus p * sum(u) everywhere (equation 6 of
`learner.objective`, for every divergence, with or without tail), so that nothing as long as the
vocabulary need be kept for it.
Axes: T rows of the chunk, G rows of a group, V vocabulary, K compared ids, B buckets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import ObjectiveSection
from learner.objective.divergence import DIVERGENCES
from learner.objective.head import HeadInputs, MixedHeads, slices, write_logits
from learner.objective.normaliser import Normaliser, logprobs_at, normaliser_and_entropy
from learner.objective.plan import Plan
from learner.objective.tokens import (
    ResponseTokens,
    SamplingLaw,
    TokenFigures,
    importance_weights,
)
from learner.objective.top_k import top_k_ids


@dataclass(frozen=True)
class Task:
    """What all chunks of a loss have in common. Student and teacher are constants."""

    student: HeadInputs
    teacher: MixedHeads
    responses: ResponseTokens
    config: ObjectiveSection
    law: SamplingLaw
    plan: Plan
    buffer: Tensor  # [plan.rows, V], for a chunk's logits: fresh memory costs more than filling it


@dataclass(frozen=True)
class Comparison:
    """How far student and teacher are apart in each row, [T], and by what it moves, [T, K]."""

    divergence_T: Tensor
    teacher_logprob_T: Tensor  # of the sampled token
    slopes_TK: Tensor  # d divergence / d student's log-probabilities at the compared ids


def evaluate_chunk(
    task: Task, rows: slice, wants_gradient: bool
) -> tuple[TokenFigures, Tensor | None]:
    """The figures of some rows and d loss / d (hidden @ weight.T + bias), [T, V], if wanted.

    The derivative is in the task's buffer until the next chunk.
    """
    temperature = task.law.temperature
    logits_TV = task.buffer[: rows.stop - rows.start]
    write_logits(((1.0, task.student),), rows, temperature, task.plan.width, logits_TV)
    sampled_T1 = task.responses.token_ids_T[rows, None]
    ids_TK = _compared_ids(task.config, logits_TV, sampled_T1)
    some_ids = (sampled_T1, task.law.banned_token_ids.expand(len(logits_TV), -1))
    some_TJ = logits_TV.gather(1, torch.cat(some_ids, dim=1))
    if ids_TK is None:
        normaliser, entropy_T = normaliser_and_entropy(logits_TV, task.plan.group, True)
        compared = _compare_all(task, rows, logits_TV, normaliser, sampled_T1)
        exp_TV = logits_TV.sub_(normaliser.peak_T1).exp_()
    else:
        compared_TK = logits_TV.gather(1, ids_TK)
        normaliser, entropy_T = normaliser_and_entropy(logits_TV, task.plan.group, False)
        exp_TV = logits_TV
        compared = _compare_at(task, rows, normaliser.logprobs(compared_TK), ids_TK, sampled_T1)
    student_logprob_T = _under_the_law(normaliser.logprobs(some_TJ))
    weight_T = importance_weights(
        student_logprob_T, task.responses.rollout_logprobs_T[rows], task.config.importance_clip
    )
    figures = TokenFigures(
        divergence=compared.divergence_T,
        weight=weight_T,
        student_logprob=student_logprob_T,
        entropy=entropy_T,
        teacher_logprob=compared.teacher_logprob_T,
    )
    if not wants_gradient:
        return figures, None
    factor_T = (task.responses.shares_T[rows] * weight_T).to(exp_TV.dtype)
    slopes_TK = compared.slopes_TK.mul_(factor_T[:, None])
    _become_gradient(exp_TV, normaliser, slopes_TK, ids_TK, task)
    return figures, exp_TV


def _under_the_law(logprobs_TJ: Tensor) -> Tensor:
    """Log-probabilities of the first id, [T], normalised without the others, which are banned."""
    return logprobs_TJ[:, 0] - torch.log1p(-logprobs_TJ[:, 1:].exp().sum(dim=1))


# ---- comparing -----------------------------------------------------------------------------------
def _compared_ids(config: ObjectiveSection, logits_TV: Tensor, sampled_T1: Tensor) -> Tensor | None:
    """int64 [T, K]; None means all of the vocabulary in order, K = V."""
    if DIVERGENCES[config.divergence].is_sampled:
        return sampled_T1
    if config.top_k is None or config.top_k >= logits_TV.shape[1]:
        return None
    return top_k_ids(logits_TV, config.top_k)


def _compare_at(
    task: Task, rows: slice, student_TK: Tensor, ids_TK: Tensor, sampled_T1: Tensor
) -> Comparison:
    asked_TJ = torch.cat([ids_TK, sampled_T1], dim=1)
    teacher_TJ = logprobs_at(
        task.teacher, rows, asked_TJ, task.law.temperature, task.plan.width
    ).to(student_TK.dtype)
    divergence = DIVERGENCES[task.config.divergence]
    value_T, slopes_TK = divergence.compare(student_TK, teacher_TJ[:, :-1], task.config)
    return Comparison(value_T, teacher_TJ[:, -1], slopes_TK)


def _compare_all(
    task: Task, rows: slice, logits_TV: Tensor, normaliser: Normaliser, sampled_T1: Tensor
) -> Comparison:
    """Compare whole rows. The slopes overwrite the teacher's logits, group by group."""
    divergence, group = DIVERGENCES[task.config.divergence], task.plan.group
    teacher_TV = torch.empty_like(logits_TV)
    write_logits(task.teacher, rows, task.law.temperature, task.plan.width, teacher_TV)
    teacher_normaliser, _ = normaliser_and_entropy(teacher_TV, group, keep_logits=True)
    teacher_logprob_T1 = teacher_normaliser.logprobs(teacher_TV.gather(1, sampled_T1))
    divergence_T = torch.empty_like(teacher_logprob_T1[:, 0])
    for few in slices(len(logits_TV), group):
        student_GV = normaliser.of_rows(few).logprobs(logits_TV[few])
        teacher_GV = teacher_normaliser.of_rows(few).logprobs(teacher_TV[few])
        divergence_T[few] = divergence.value(student_GV, teacher_GV, task.config)
        teacher_TV[few] = divergence.slopes(student_GV, teacher_GV, task.config)
    return Comparison(divergence_T, teacher_logprob_T1[:, 0], teacher_TV)


# ---- gradient ------------------------------------------------------------------------------------
def _become_gradient(
    exp_TV: Tensor, normaliser: Normaliser, slopes_TK: Tensor, ids_TK: Tensor | None, task: Task
) -> None:
    """Overwrite exp(logits - peak) with the derivative by the head's output, unscaled, uncapped.

    Args:
        slopes_TK: d loss / d student's log-probabilities at the compared ids.
    """
    softcap, temperature = task.student.softcap, task.law.temperature
    slopes_TK = slopes_TK.mul_(task.student.scale / temperature)
    rest_T1 = -slopes_TK.sum(dim=1, keepdim=True) * (-normaliser.log_sum_T1).exp()
    # Only the soft-cap needs scratch.
    for few in slices(len(exp_TV), len(exp_TV) if softcap is None else task.plan.group):
        gradient_GV = exp_TV[few]
        cap_GV = None
        if softcap is not None:
            logits_GV = normaliser.of_rows(few).logits(gradient_GV)
            cap_GV = 1 - logits_GV.mul_(temperature / softcap).square_()  # 1 - tanh^2
        gradient_GV.mul_(rest_T1[few])
        if ids_TK is None:
            gradient_GV.add_(slopes_TK[few])
        else:
            ids_GK = ids_TK[few]
            gradient_GV.scatter_(1, ids_GK, gradient_GV.gather(1, ids_GK) + slopes_TK[few])
        if cap_GV is not None:
            gradient_GV.mul_(cap_GV)
