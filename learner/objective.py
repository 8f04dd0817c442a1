"""The objective: importance-weighted divergence of response tokens (spec section 4).

It starts from the hidden states that predict response tokens and from the two output heads, and
works through them in chunks of rows, so that logits exist for one chunk at a time: the backward
pass computes them again. Axes: T response tokens, D hidden size, V vocabulary, K top tokens.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.config import ObjectiveSection
from learner.divergence import bucket_logprobs, divergence

CHUNK_ELEMENTS = 2**25  # logits of one model at a time: 128 MiB in float32
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class HeadInputs:
    """One model's side of the objective."""

    hidden_TD: Tensor  # the hidden states that predict the response tokens
    weight_VD: Tensor  # the output head


@dataclass(frozen=True)
class ResponseTokens:
    """What was sampled, and how much each token counts."""

    token_ids_T: Tensor  # int64
    rollout_logprobs_T: Tensor  # float32, nats, at the sampling temperature
    shares_T: Tensor  # float32; they sum to 1 over all micro-batches of a step


@dataclass(frozen=True)
class SamplingLaw:
    """How the rollout engine draws tokens.

    The divergence is over the whole vocabulary (spec 4.1), but an importance ratio compares two
    sampling laws: the student's log-probs for it are normalised without the banned ids, as the
    engine's are.
    """

    temperature: float
    banned_token_ids: Tensor  # int64


@dataclass(frozen=True)
class TokenFigures:
    """Per-token figures without grad, all [T]."""

    divergence: Tensor  # nats, unweighted
    weight: Tensor  # importance weight, truncated
    student_logprob: Tensor  # nats, of the sampled token under the sampling law
    entropy: Tensor  # nats, of the student


@dataclass(frozen=True)
class ObjectiveResult:
    loss: Tensor  # scalar with grad; sums over micro-batches to the loss of the step
    tokens: TokenFigures


def objective(
    student: HeadInputs,
    teacher: HeadInputs,
    responses: ResponseTokens,
    config: ObjectiveSection,
    law: SamplingLaw,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> ObjectiveResult:
    """sum over tokens of share * weight * divergence, and the figures behind it.

    Gradients reach `student` alone; the choice of the top K, the weights and the teacher are
    constants (spec 4.3).
    """
    num_tokens, vocabulary = len(responses.token_ids_T), student.weight_VD.shape[0]
    rows = max(1, chunk_elements // vocabulary)
    student_weight_VD = student.weight_VD.to(student.hidden_TD.dtype)
    teacher_weight_VD = teacher.weight_VD.detach().to(teacher.hidden_TD.dtype)
    losses, figures = [], []
    for start in range(0, num_tokens, rows):
        part = slice(start, start + rows)
        arguments = (
            student.hidden_TD[part],
            student_weight_VD,
            teacher.hidden_TD[part].detach(),
            teacher_weight_VD,
            responses.token_ids_T[part],
            responses.rollout_logprobs_T[part],
            responses.shares_T[part],
            config,
            law,
        )
        if num_tokens <= rows:
            loss, *columns = _chunk(*arguments)
        else:
            loss, *columns = checkpoint(
                _chunk, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        losses.append(loss)
        figures.append(columns)
    joined = [torch.cat(columns) for columns in zip(*figures, strict=True)]
    return ObjectiveResult(torch.stack(losses).sum(), TokenFigures(*joined))


def token_shares(
    lengths: Tensor, aggregation: str, num_sequences: int, num_tokens: int, dtype: torch.dtype
) -> Tensor:
    """How much each token counts, [sum(lengths)], from the exact counts of the whole step.

    "sequence_mean" (the paper): 1 / (sequences * tokens of its sequence); "token_mean": 1 / tokens.
    """
    if aggregation == "token_mean":
        return torch.full((int(lengths.sum()),), 1 / num_tokens, dtype=dtype)
    return torch.repeat_interleave(1 / (lengths.to(dtype) * num_sequences), lengths)


def _chunk(
    student_hidden_TD: Tensor,
    student_weight_VD: Tensor,
    teacher_hidden_TD: Tensor,
    teacher_weight_VD: Tensor,
    token_ids_T: Tensor,
    rollout_logprobs_T: Tensor,
    shares_T: Tensor,
    config: ObjectiveSection,
    law: SamplingLaw,
) -> tuple[Tensor, ...]:
    """Loss of some rows, then the columns of `TokenFigures` in their order."""
    student_TV = _logits(student_hidden_TD, student_weight_VD, law.temperature)
    student_lse_T1 = torch.logsumexp(student_TV, dim=-1, keepdim=True)
    with torch.no_grad():
        teacher_TV = _logits(teacher_hidden_TD, teacher_weight_VD, law.temperature)
        teacher_lse_T1 = torch.logsumexp(teacher_TV, dim=-1, keepdim=True)
        size = min(config.top_k, student_TV.shape[-1])
        top_ids_TK = student_TV.topk(size, dim=-1, sorted=False).indices
        sampled_T = student_TV.gather(1, token_ids_T[:, None]) - student_lse_T1
        banned_mass_T = (student_TV[:, law.banned_token_ids] - student_lse_T1).exp().sum(dim=-1)
        student_logprob_T = sampled_T.squeeze(1) - torch.log1p(-banned_mass_T)
        weight_T = importance_weights(student_logprob_T, rollout_logprobs_T, config.importance_clip)
        entropy_T = student_lse_T1.squeeze(1) - _mean_logit(student_TV, student_lse_T1)
    has_tail = config.tail and size < student_TV.shape[-1]  # the whole vocabulary leaves no tail
    divergence_T = divergence(
        bucket_logprobs(student_TV.gather(1, top_ids_TK) - student_lse_T1, has_tail),
        bucket_logprobs(teacher_TV.gather(1, top_ids_TK) - teacher_lse_T1, has_tail),
        config.divergence,
        config.jsd_teacher_weight,
    )
    loss = (shares_T * weight_T * divergence_T).sum()
    return loss, divergence_T.detach(), weight_T, student_logprob_T, entropy_T


def importance_weights(
    student_logprobs_T: Tensor, rollout_logprobs_T: Tensor, clip: float | None
) -> Tensor:
    """min(student / rollout, clip), detached; ones without a clip (spec 4.4)."""
    if clip is None:
        return torch.ones_like(student_logprobs_T)
    log_ratio_T = (student_logprobs_T - rollout_logprobs_T).detach()
    return log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=clip)


def _logits(hidden_TD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits_TV = functional.linear(hidden_TD, weight_VD)
    wide = torch.promote_types(logits_TV.dtype, torch.float32)
    return logits_TV.to(wide) / temperature


def _mean_logit(logits_TV: Tensor, lse_T1: Tensor) -> Tensor:
    return ((logits_TV - lse_T1).exp() * logits_TV).sum(dim=-1)


def join_figures(parts: list[TokenFigures]) -> TokenFigures:
    """The figures of several micro-batches, one after the other."""
    columns = [field.name for field in fields(TokenFigures)]
    return TokenFigures(*(torch.cat([getattr(part, name) for part in parts]) for name in columns))
