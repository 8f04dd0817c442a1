"""Log-probabilities over the whole vocabulary from logits that come in pieces.

Axes: T rows, V vocabulary, J ids that are asked for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objective.head import MixedHeads, mixed_logits, slices


@dataclass(frozen=True)
class Normaliser:
    """log sum exp of each row in two parts.

    Their sum has the rounding of the largest logit, a hundred times that of a likely token's
    log-probability; apart they lose nothing.
    """

    peak_T1: Tensor  # the largest logit
    log_sum_T1: Tensor  # of exp(logits - peak)

    def logprobs(self, logits_TJ: Tensor) -> Tensor:
        """Log-probabilities of these logits, in a new tensor."""
        return (logits_TJ - self.peak_T1).sub_(self.log_sum_T1)

    def logits(self, exp_TJ: Tensor) -> Tensor:
        """Logits from exp(logits - peak); where that underflowed, the smallest that it can hold."""
        tiny = torch.finfo(exp_TJ.dtype).tiny
        return exp_TJ.clamp(min=tiny).log_().add_(self.peak_T1)

    def of_rows(self, rows: slice) -> "Normaliser":
        return Normaliser(self.peak_T1[rows], self.log_sum_T1[rows])


def normaliser_and_entropy(
    logits_TV: Tensor, group: int, keep_logits: bool
) -> tuple[Normaliser, Tensor]:
    """The normaliser of whole rows and their entropy in nats, [T].

    Args:
        group: rows of scratch that may exist at a time.
        keep_logits: False overwrites them with exp(logits - peak).
    """
    peak_T1 = logits_TV.amax(dim=1, keepdim=True)
    sum_T = torch.empty_like(peak_T1[:, 0])
    product_T = torch.empty_like(sum_T)
    for rows in slices(len(logits_TV), group):
        shifted_GV = logits_TV[rows] - peak_T1[rows]
        exp_GV = torch.exp(shifted_GV, out=None if keep_logits else logits_TV[rows])
        sum_T[rows] = exp_GV.sum(dim=1)
        product_T[rows] = torch.linalg.vecdot(exp_GV, shifted_GV)
    return Normaliser(peak_T1, sum_T.log()[:, None]), sum_T.log() - product_T / sum_T


def logprobs_at(
    heads: MixedHeads, rows: slice, ids_TJ: Tensor, temperature: float, width: int
) -> Tensor:
    """Log-probabilities of some ids, [T, J], nats, float32 or float64.

    Args:
        rows: T rows of the hidden states.
        ids_TJ: int64.
        width: columns of logits that may exist at a time.
    """
    vocabulary = heads[0][1].weight_VD.shape[0]
    peaks, sums, logits_TJ = [], [], None
    for ids in slices(vocabulary, width):
        logits_TS = mixed_logits(heads, rows, ids, temperature)
        local_TJ = ids_TJ - ids.start
        found_TJ = logits_TS.gather(1, local_TJ.clamp(0, ids.stop - ids.start - 1))
        is_here_TJ = (local_TJ >= 0) & (ids_TJ < ids.stop)
        logits_TJ = found_TJ if logits_TJ is None else found_TJ.where(is_here_TJ, logits_TJ)
        peaks.append(logits_TS.amax(dim=1))
        sums.append(logits_TS.sub_(peaks[-1][:, None]).exp_().sum(dim=1))
    assert logits_TJ is not None, "an empty vocabulary"
    return _joined(torch.stack(peaks), torch.stack(sums)).logprobs(logits_TJ)


def _joined(peaks_NT: Tensor, sums_NT: Tensor) -> Normaliser:
    """The normaliser of rows whose logits came in N pieces."""
    peak_T = peaks_NT.amax(dim=0)
    sum_T = (sums_NT * (peaks_NT - peak_T).exp()).sum(dim=0)
    return Normaliser(peak_T[:, None], sum_T.log()[:, None])
