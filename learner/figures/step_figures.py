"""The figures of one step, summed over its tokens, micro-batches and ranks.

The mismatch of learner and rollout is taken of each sample as well: an engine that saw another
picture or prompt of a single one drowns in the mean over all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learner.objective.tokens import LOG_RATIO_LIMIT, TokenFigures
from learner.ranks import Ranks
from learner.views.inputs import PreparedBatch, PreparedGroup

_SUMS = ("divergence", "entropy", "mismatch_kl", "ratio", "clipped", "agreement", "difference")
_STANDS_OUT = 50.0  # times the mean of the step's other samples


class WorstSample(NamedTuple):
    """The sample whose rollout log-probs differ most from the learner's."""

    mismatch_kl: float  # nats a token, mean over the sample's responses
    sample_id: str
    of_others: float  # the same, mean over the step's other samples

    @property
    def outlier_kl(self) -> float:
        """The sample's mismatch if it stands out, else 0.

        Where rollout lags the learner all samples differ, one of them often by 30 times the mean in
        a quickstart; an engine that saw another picture of one differs by hundreds.
        """
        return self.mismatch_kl if self.mismatch_kl > _STANDS_OUT * self.of_others else 0.0


class StepFigures:
    """Sums over the micro-batches of a step; `metrics` makes means of them."""

    def __init__(self, clip: float | None, device: torch.device) -> None:
        self._clip = math.inf if clip is None else clip
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self._ratio_max = torch.zeros((), device=device)
        self._difference_max = torch.zeros((), device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._sample_means: list[Tensor] = []  # mean mismatch of each sample, on the device
        self._sample_ids: list[str] = []

    def add(
        self,
        loss: Tensor,
        tokens: TokenFigures,
        rollout_logprobs_T: Tensor,
        groups: Sequence[PreparedGroup],
    ) -> None:
        """Add the tokens of a micro-batch.

        Args:
            groups: that the tokens belong to, in their order.
        """
        log_ratio_T = (tokens.student_logprob - rollout_logprobs_T).clamp(
            -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT
        )
        ratio_T = log_ratio_T.exp()
        mismatch_T = ratio_T - 1 - log_ratio_T
        columns = (
            tokens.divergence,
            tokens.entropy,
            mismatch_T,
            ratio_T,
            (ratio_T > self._clip).float(),
            tokens.teacher_logprob - tokens.student_logprob,
            log_ratio_T.abs(),
        )
        self._sums += torch.stack([column.double().sum() for column in columns])
        self._ratio_max = torch.maximum(self._ratio_max, ratio_T.max())
        self._difference_max = torch.maximum(self._difference_max, log_ratio_T.abs().max())
        self._loss += loss.detach()
        sizes = [group.num_response_tokens for group in groups]
        self._sample_means += [part.mean() for part in torch.split(mismatch_T, sizes)]
        self._sample_ids += [group.sample_id for group in groups]

    def worst_sample(self, ranks: Ranks) -> WorstSample:
        """The worst sample of all ranks, who all call it; without a token its id is empty."""
        means = torch.stack(self._sample_means).tolist() if self._sample_means else []
        finite = [mean if math.isfinite(mean) else math.inf for mean in means]
        worst = max(zip(finite, self._sample_ids, strict=True), default=(0.0, ""))
        most, name = ranks.text_of_greatest(*worst)
        number, total = ranks.sum([len(finite), math.fsum(finite)])
        others = (total - most) / (number - 1) if number > 1 and math.isfinite(most) else 0.0
        return WorstSample(most, name, others)

    def metrics(self, batch: PreparedBatch, ranks: Ranks) -> dict[str, float]:
        """Figures of all ranks, who all call it; without a token only the counts."""
        ages = [age for group in batch.groups for age in group.staleness]
        counts = [
            len(batch.groups),
            len(ages),
            sum(group.num_response_tokens for group in batch.groups),
            len(batch.refused),
            sum(ages),
        ]
        sums = ranks.sum([*counts, float(self._loss), *self._sums.tolist()])
        groups, trajectories, tokens, refused, age_sum, loss = sums[:6]
        metrics = {
            "learner/groups": groups,
            "learner/trajectories": trajectories,
            "learner/tokens": tokens,
            "learner/response_tokens_mean": tokens / max(1, trajectories),
            "learner/refused_groups": refused,
        }
        maxima = [float(self._ratio_max), max(ages, default=0), float(self._difference_max)]
        ratio_max, age_max, difference_max = ranks.greatest(maxima)
        if not tokens:
            return metrics
        mean = {name: total / tokens for name, total in zip(_SUMS, sums[6:], strict=True)}
        return {
            "learner/loss_nats": loss,
            **metrics,
            "learner/divergence_nats": mean["divergence"],
            "learner/entropy_nats": mean["entropy"],
            "learner/mismatch_kl_nats": mean["mismatch_kl"],
            "learner/logprob_difference_mean_nats": mean["difference"],
            "learner/logprob_difference_max_nats": difference_max,
            "learner/ratio_mean": mean["ratio"],
            "learner/ratio_max": ratio_max,
            "learner/ratio_clipped_share": mean["clipped"],
            "learner/teacher_gain_nats": mean["agreement"],
            "staleness/max_steps": age_max,
            "staleness/mean_steps": age_sum / max(1.0, trajectories),
        }


def counts_of_step(batch: PreparedBatch, ranks: Ranks) -> tuple[int, int, int]:
    """Groups, sequences and response tokens of a step over all ranks; all ranks call it."""
    sequences: Sequence[int] = [len(r) for group in batch.groups for r in group.responses]
    groups, number, tokens = ranks.sum([len(batch.groups), len(sequences), sum(sequences)])
    return round(groups), round(number), round(tokens)
