"""The drift of rollout against learner: |student's - rollout's| log-prob of each sampled token.

Quantiles come from counts in bins whose edges are fixed, on a scale where 16 of them double the
value. Counts add up exactly over micro-batches and ranks, so that a quantile depends on how a step
was packed and divided no more than the log-probs do; it is within 2.2 % of the value that sorting
all tokens would give (2 ** (1 / 32)), 0 below 7.5e-9 nats, and the greatest from 128 nats on.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from learner.model.transfer import sent
from learner.views.inputs import PreparedGroup

QUANTILES = {"drift/p50_nats": 0.5, "drift/p90_nats": 0.9, "drift/p99_nats": 0.99}
MEANS_BY_AGE = (  # age of a token: steps that the learner was ahead of the weights that sampled it
    "drift/age_0_mean_nats",
    "drift/age_1_mean_nats",
    "drift/age_2_mean_nats",
    "drift/age_3_mean_nats",
    "drift/age_4_up_mean_nats",
)
_BINS_PER_OCTAVE = 16
_LEAST, _GREATEST = -27, 7  # powers of 2: the first and the last edge
_EDGES = 2 ** (
    torch.arange(_BINS_PER_OCTAVE * (_GREATEST - _LEAST) + 1, dtype=torch.float64)
    / _BINS_PER_OCTAVE
    + _LEAST
)
_AGES = len(MEANS_BY_AGE)


class Drift:
    """What is added up over a step's micro-batches.

    Args:
        step: that is trained; its weights before are of version `step - 1`.
    """

    def __init__(self, step: int, device: torch.device) -> None:
        self._version = step - 1
        self._edges = sent(_EDGES.float(), device)
        self._counts = torch.zeros(len(_EDGES) + 1, dtype=torch.int64, device=device)
        self._by_age = torch.zeros((2, _AGES), dtype=torch.float64, device=device)  # sums, tokens
        self._ages = torch.arange(_AGES, device=device)

    def add(self, drift_T: Tensor, groups: Sequence[PreparedGroup]) -> None:
        """Add the tokens of a micro-batch; the host waits for no device.

        Args:
            drift_T: float32, nats.
            groups: that the tokens belong to, in their order.
        """
        bins_T = torch.bucketize(drift_T, self._edges, right=True)  # that which is no number: last
        self._counts.index_add_(0, bins_T, torch.ones_like(bins_T))
        ages_T = sent(ages_of(groups, self._version), drift_T.device)
        is_of_age_AT = self._ages[:, None] == ages_T
        # Not a product: a drift that is not finite would be in the sums of all ages.
        of_age_AT = torch.where(is_of_age_AT, drift_T, 0.0)
        sums = (of_age_AT.sum(dim=1, dtype=torch.float64), is_of_age_AT.sum(dim=1))
        self._by_age += torch.stack([part.double() for part in sums])

    def totals(self) -> list[float]:
        """Numbers that add up over ranks; whole ones but for sums. Waits for the device."""
        return torch.cat([self._by_age.flatten(), self._counts.double()]).tolist()


def figures_of(totals: Sequence[float], greatest: float) -> dict[str, float]:
    """The figures of `Drift.totals`, summed over the ranks, with at least one token.

    Args:
        greatest: drift of any token.
    """
    sums, tokens, counts = totals[:_AGES], totals[_AGES : 2 * _AGES], totals[2 * _AGES :]
    by_age = zip(MEANS_BY_AGE, sums, tokens, strict=True)
    found = {name: total / number for name, total, number in by_age if number}
    return found | {name: _quantile(counts, q, greatest) for name, q in QUANTILES.items()}


def ages_of(groups: Sequence[PreparedGroup], version: int) -> Tensor:
    """Ages of the groups' response tokens, int64 [T], at most the last of MEANS_BY_AGE.

    It is -1 for tokens of which no trajectory is known.
    """
    ages, lengths = [], []
    for group in groups:
        if not group.trajectories:
            ages.append(-1)
            lengths.append(group.num_response_tokens)
        for trajectory in group.trajectories:
            for span in trajectory.version_spans:
                ages.append(min(version - span.version, _AGES - 1))
                lengths.append(span.end - span.start)
    return torch.repeat_interleave(torch.tensor(ages), torch.tensor(lengths))


def _quantile(counts: Sequence[float], share: float, greatest: float) -> float:
    """The middle of the bin where the share of all tokens is reached."""
    number = bisect_left(list(accumulate(counts)), share * sum(counts))
    if number == len(_EDGES):
        return greatest
    middle = float((_EDGES[number - 1] * _EDGES[number]).sqrt()) if number else 0.0
    return min(middle, greatest)
