"""Divergences between student and teacher over a few vocabulary buckets, with their derivatives.

The numbers of equations are those of `learner.objective`.

Axes: T response tokens, K tokens that are compared, B buckets: K, or K + 1 with the tail.
Everything is plain tensor math and keeps the dtype it is given (float32, float64). Autograd passes
through it; the objective takes the derivatives written out here instead, which hold no graph.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import ObjectiveSection
from common.config.objective import DivergenceName

TAIL_CEILING = -1e-7  # log of the largest mass that the K tokens may hold beside a tail
_Function = Callable[[Tensor, Tensor, ObjectiveSection], Tensor]


@dataclass(frozen=True)
class Divergence:
    """A divergence D of each token, and its derivative.

    Both functions take log-probabilities of student and teacher, [T, B] each, nats, and the options
    of the objective. The teacher's must not carry grad.
    """

    value: _Function  # D, [T], nats (equation 4)
    slopes: _Function  # dD / d student, [T, B], finite also where probabilities underflow
    is_sampled: bool = False  # estimates by the sampled token, which is then the only column

    def compare(
        self, student_TK: Tensor, teacher_TK: Tensor, config: ObjectiveSection
    ) -> tuple[Tensor, Tensor]:
        """D and its derivative by `student_TK`, [T] and [T, K].

        Args:
            student_TK: log-probabilities over the whole vocabulary, nats.
            teacher_TK: log-probabilities of the same tokens.
        """
        if self.is_sampled:
            both = (student_TK, teacher_TK, config)
            return self.value(*both), self.slopes(*both)
        tail = config.tail
        both = (bucket_logprobs(student_TK, tail), bucket_logprobs(teacher_TK, tail), config)
        return self.value(*both), bucket_slopes(student_TK, self.slopes(*both), tail)


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
    # The tail holds 1 - kept: its log moves by - d(kept) / tail, and at the floor not at all.
    tail_T1 = -torch.expm1(kept_T1.clamp(max=TAIL_CEILING))
    per_mass_T1 = torch.where(kept_T1 > TAIL_CEILING, 0, slopes_TB[:, -1:] / tail_T1)
    return slopes_TB[:, :-1] - logprobs_TK.exp() * per_mass_T1


def _jsd(student_TB: Tensor, teacher_TB: Tensor, config: ObjectiveSection) -> Tensor:
    """With a teacher's weight of 0.5 at most log 2. It tends to 0 at both ends, not to a KL."""
    weight, mixture_TB = config.jsd_teacher_weight, _mixture(student_TB, teacher_TB, config)
    return (1 - weight) * _kl(student_TB, mixture_TB) + weight * _kl(teacher_TB, mixture_TB)


def _jsd_slopes(student_TB: Tensor, teacher_TB: Tensor, config: ObjectiveSection) -> Tensor:
    """The mixture moves with the student."""
    mixture_TB = _mixture(student_TB, teacher_TB, config)
    return (1 - config.jsd_teacher_weight) * student_TB.exp() * (student_TB - mixture_TB)


def _mixture(student_TB: Tensor, teacher_TB: Tensor, config: ObjectiveSection) -> Tensor:
    weight = config.jsd_teacher_weight
    return torch.logaddexp(student_TB + math.log1p(-weight), teacher_TB + math.log(weight))


def _kl(from_TB: Tensor, to_TB: Tensor) -> Tensor:
    return (from_TB.exp() * (from_TB - to_TB)).sum(dim=-1)


DIVERGENCES: dict[DivergenceName, Divergence] = {
    "jsd": Divergence(_jsd, _jsd_slopes),
    "forward_kl": Divergence(
        value=lambda student_TB, teacher_TB, _: _kl(teacher_TB, student_TB),
        slopes=lambda _, teacher_TB, __: -teacher_TB.exp(),
    ),
    "reverse_kl": Divergence(
        value=lambda student_TB, teacher_TB, _: _kl(student_TB, teacher_TB),
        slopes=lambda student_TB, teacher_TB, _: student_TB.exp() * (student_TB - teacher_TB + 1),
    ),
    "sampled_reverse_kl": Divergence(  # an estimate of reverse_kl, of either sign
        value=lambda student_T1, teacher_T1, _: (student_T1 - teacher_T1).sum(dim=-1),
        slopes=lambda student_T1, teacher_T1, _: student_T1 - teacher_T1,
        is_sampled=True,
    ),
}
