"""What the objective knows about each response token, and what it reports. All [T]."""

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class ResponseTokens:
    """What was sampled, and how much each token counts."""

    token_ids_T: Tensor  # int64
    rollout_logprobs_T: Tensor  # float32, nats, at the sampling temperature
    shares_T: Tensor  # float32; they sum to 1 over all micro-batches of a step


@dataclass(frozen=True)
class SamplingLaw:
    """How the rollout engine draws tokens.

    The divergence is over the whole vocabulary (equation 1 of `learner.objective`), but an
    importance ratio compares two sampling laws: the student's log-probs for it are normalised
    without the banned ids, as the engine's are.
    """

    temperature: float
    banned_token_ids: Tensor  # int64


@dataclass(frozen=True)
class TokenFigures:
    """Per-token figures without grad, all [T], float32 (float64 where hidden states are)."""

    divergence: Tensor  # nats, unweighted; a sampled divergence is an estimate, of either sign
    weight: Tensor  # importance weight, truncated
    student_logprob: Tensor  # nats, of the sampled token under the sampling law
    entropy: Tensor  # nats, of the student
    teacher_logprob: Tensor  # nats, of the sampled token over the whole vocabulary


def importance_weights(
    student_logprobs_T: Tensor, rollout_logprobs_T: Tensor, clip: float | None
) -> Tensor:
    """min(student / rollout, clip), detached; ones without a clip (equation 7)."""
    if clip is None:
        return torch.ones_like(student_logprobs_T)
    log_ratio_T = (student_logprobs_T - rollout_logprobs_T).detach()
    return log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=clip)


def token_shares(
    lengths: Tensor, aggregation: str, num_sequences: int, num_tokens: int, dtype: torch.dtype
) -> Tensor:
    """How much each token counts, [sum(lengths)], from the exact counts of the whole step.

    Equation 8 of `learner.objective`:

    "sequence_mean" (the paper): 1 / (sequences * tokens of its sequence); "token_mean": 1 / tokens.
    "micro_batch_mean" (as published): this micro-batch's share of the step's sequences
    over its tokens, which depends on how sequences were packed.

    Args:
        lengths: int64, tokens of each sequence of this micro-batch.
        num_sequences: of the whole step.
        num_tokens: of the whole step.
    """
    of_micro_batch = int(lengths.sum())
    if aggregation == "token_mean":
        return torch.full((of_micro_batch,), 1 / num_tokens, dtype=dtype)
    if aggregation == "micro_batch_mean":
        share = len(lengths) / num_sequences / max(1, of_micro_batch)
        return torch.full((of_micro_batch,), share, dtype=dtype)
    return torch.repeat_interleave(1 / (lengths.to(dtype) * num_sequences), lengths)
