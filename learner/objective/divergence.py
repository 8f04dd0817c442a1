"""Divergence between student and teacher over a few vocabulary buckets.

The numbers of equations are those of `learner.objective`.

Axes: T response tokens, K the student's likeliest tokens, B buckets: K, or K + 1 with the tail.
Everything is plain tensor math and keeps the dtype it is given (float32, float64). Autograd passes
through it; the objective takes the derivatives written out here instead, which hold no graph.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["jsd", "forward_kl", "reverse_kl"]
TAIL_CEILING = -1e-7  # log of the largest mass that the K tokens may hold beside a tail


def bucket_logprobs(logprobs_TK: Tensor, tail: bool) -> Tensor:
    """Log-probabilities of K tokens -> those of a proper distribution over buckets (equation 3).

    Args:
        logprobs_TK: [T, K], nats, normalised over the whole vocabulary.
        tail: true adds a bucket with all other tokens' mass, at least about 1e-7; where that floor
            binds the tail has no gradient. False renormalises the K tokens.

    Returns:
        [T, K + 1] with the tail last, or [T, K].
    """
    kept_T1 = torch.logsumexp(logprobs_TK, dim=-1, keepdim=True)
    if not tail:
        return logprobs_TK - kept_T1
    kept_T1 = kept_T1.clamp(max=TAIL_CEILING)
    return torch.cat([logprobs_TK, torch.log(-torch.expm1(kept_T1))], dim=-1)


def bucket_slopes(logprobs_TK: Tensor, slopes_TB: Tensor, tail: bool) -> Tensor:
    """The derivative through `bucket_logprobs`: d / d buckets -> d / d `logprobs_TK`.

    Args:
        logprobs_TK: [T, K], what `bucket_logprobs` was given.
        slopes_TB: [T, B], derivatives of a value with respect to what it returned.

    Returns:
        [T, K].
    """
    kept_T1 = torch.logsumexp(logprobs_TK, dim=-1, keepdim=True)
    if not tail:
        return slopes_TB - (logprobs_TK - kept_T1).exp() * slopes_TB.sum(dim=-1, keepdim=True)
    # The tail holds 1 - kept, so that its log moves by - d(kept) / tail; at the floor not at all.
    tail_T1 = -torch.expm1(kept_T1.clamp(max=TAIL_CEILING))
    per_mass_T1 = torch.where(kept_T1 > TAIL_CEILING, 0, slopes_TB[:, -1:] / tail_T1)
    return slopes_TB[:, :-1] - logprobs_TK.exp() * per_mass_T1


def divergence(
    student_TB: Tensor, teacher_TB: Tensor, kind: Divergence, teacher_weight: float
) -> Tensor:
    """Per-token divergence over buckets (equation 4).

    Args:
        student_TB: [T, B], log-probabilities, nats.
        teacher_TB: [T, B], the same buckets. Must not carry grad.
        kind: "forward_kl" is KL(teacher || student), "reverse_kl" is KL(student || teacher), "jsd"
            the generalised Jensen-Shannon divergence. The two are not limits of the third.
        teacher_weight: the teacher's share in the mixture of "jsd" (the paper's beta).

    Returns:
        [T], nats, >= 0 up to rounding; "jsd" with weight 0.5 is at most log 2.
    """
    if kind == "forward_kl":
        return _kl(teacher_TB, student_TB)
    if kind == "reverse_kl":
        return _kl(student_TB, teacher_TB)
    mixture_TB = _mixture(student_TB, teacher_TB, teacher_weight)
    return (1 - teacher_weight) * _kl(student_TB, mixture_TB) + teacher_weight * _kl(
        teacher_TB, mixture_TB
    )


def divergence_slopes(
    student_TB: Tensor, teacher_TB: Tensor, kind: Divergence, teacher_weight: float
) -> Tensor:
    """d divergence / d `student_TB`, [T, B] (equation 5).

    As products they stay finite where S_b underflows. The mixture moves with the student.
    """
    if kind == "forward_kl":
        return -teacher_TB.exp()
    if kind == "reverse_kl":
        return student_TB.exp() * (student_TB - teacher_TB + 1)
    mixture_TB = _mixture(student_TB, teacher_TB, teacher_weight)
    return (1 - teacher_weight) * student_TB.exp() * (student_TB - mixture_TB)


def _mixture(student_TB: Tensor, teacher_TB: Tensor, teacher_weight: float) -> Tensor:
    return torch.logaddexp(
        student_TB + math.log1p(-teacher_weight), teacher_TB + math.log(teacher_weight)
    )


def _kl(from_TB: Tensor, to_TB: Tensor) -> Tensor:
    return (from_TB.exp() * (from_TB - to_TB)).sum(dim=-1)
