"""The figures of one step, over its tokens, micro-batches and ranks, and of each of its groups.

The mismatch of learner and rollout is looked at sample by sample as well: an engine that saw
another picture or prompt of a single one drowns in the mean over all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.metrics import Over, names_over
from learner.figures.drift import Drift, figures_of
from learner.objective.tokens import LOG_RATIO_LIMIT, TokenFigures
from learner.ranks import Ranks
from learner.views.inputs import PreparedBatch, PreparedGroup

Row = dict[str, Any]
_STANDS_OUT = 50.0  # times the mean of the step's other samples
_MEANS = names_over(Over.TOKENS)
_GREATEST = names_over(Over.TOKENS_GREATEST)
_MEANS_OF_TRAJECTORIES = names_over(Over.TRAJECTORIES)
_GREATEST_OF_TRAJECTORIES = names_over(Over.TRAJECTORIES_GREATEST)


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
    """What is added up over a step's micro-batches, each as `common.metrics` declares it."""

    def __init__(self, clip: float | None, device: torch.device, step: int) -> None:
        self._clip = math.inf if clip is None else clip
        self._sums = torch.zeros(len(_MEANS), dtype=torch.float64, device=device)
        self._greatest = torch.zeros(len(_GREATEST), device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._drift = Drift(step, device)
        self._groups: list[PreparedGroup] = []
        self._means_of_groups: list[Tensor] = []  # of `_MEANS`, on the device

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
        columns = self._of_tokens(tokens, rollout_logprobs_T)
        means_FT = torch.stack([columns[name] for name in _MEANS])
        self._sums += means_FT.sum(dim=1, dtype=torch.float64)
        greatest = torch.stack([columns[name].max() for name in _GREATEST])
        self._greatest = torch.maximum(self._greatest, greatest)
        self._loss += loss.detach()
        self._drift.add(columns["drift/mean_nats"], groups)
        sizes = [group.num_response_tokens for group in groups]
        self._means_of_groups += [part.mean(dim=1) for part in torch.split(means_FT, sizes, dim=1)]
        self._groups += groups

    def _of_tokens(self, tokens: TokenFigures, rollout_logprobs_T: Tensor) -> dict[str, Tensor]:
        """Figures of each response token, float32 [T], by the metric that they are taken over."""
        difference_T = tokens.student_logprob - rollout_logprobs_T
        drift_T = difference_T.abs().float()
        log_ratio_T = difference_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio_T = log_ratio_T.exp()
        return {
            "learner/divergence_nats": tokens.divergence,
            "learner/entropy_nats": tokens.entropy,
            "learner/mismatch_kl_nats": ratio_T - 1 - log_ratio_T,
            "drift/mean_nats": drift_T,
            "drift/max_nats": drift_T,
            "learner/ratio_mean": ratio_T,
            "learner/ratio_max": ratio_T,
            "learner/ratio_clipped_share": (ratio_T > self._clip).float(),
            "learner/teacher_gain_nats": tokens.teacher_logprob - tokens.student_logprob,
        }

    def metrics(self, batch: PreparedBatch, ranks: Ranks) -> dict[str, float]:
        """Figures of all ranks, who all call it; without a token only the counts."""
        of_trajectories = _of_trajectories(batch.groups)
        sums = {
            "learner/groups": len(batch.groups),
            "learner/trajectories": sum(len(group.responses) for group in batch.groups),
            "learner/tokens": sum(group.num_response_tokens for group in batch.groups),
            "learner/refused_groups": len(batch.refused),
            "learner/loss_nats": float(self._loss),
        }
        totals = tuple(sums)
        sums |= {name: sum(of_trajectories[name]) for name in _MEANS_OF_TRAJECTORIES}
        sums |= zip(_MEANS, self._sums.tolist(), strict=True)
        summed = ranks.sum([*sums.values(), *self._drift.totals()])
        metrics = dict(zip(sums, summed[: len(sums)], strict=True))
        if not (tokens := metrics["learner/tokens"]):
            counts = {name: metrics[name] for name in totals if name != "learner/loss_nats"}
            return counts | {"learner/response_mean_tokens": 0.0}
        metrics |= {name: metrics[name] / tokens for name in _MEANS}
        trajectories = metrics["learner/trajectories"]
        metrics |= {name: metrics[name] / trajectories for name in _MEANS_OF_TRAJECTORIES}
        greatest = [max(of_trajectories[n], default=0.0) for n in _GREATEST_OF_TRAJECTORIES]
        greatest = ranks.greatest([*greatest, *self._greatest.tolist()])
        metrics |= zip((*_GREATEST_OF_TRAJECTORIES, *_GREATEST), greatest, strict=True)
        return metrics | figures_of(summed[len(sums) :], metrics["drift/max_nats"])

    def of_groups(self, ranks: Ranks) -> list[Row]:
        """A row for each group of all ranks, who all call it: its ids and its own figures."""
        means = torch.stack(self._means_of_groups).tolist() if self._groups else []
        rows = [
            {"group_id": group.group_id, "sample_id": group.sample_id}
            | {"learner/trajectories": len(group.responses)}
            | {"learner/tokens": group.num_response_tokens}
            | _means_of_trajectories(group)
            | dict(zip(_MEANS, values, strict=True))
            for group, values in zip(self._groups, means, strict=True)
        ]
        return [row for of_rank in ranks.gathered_json(rows) for row in of_rank]


def _of_trajectories(groups: Sequence[PreparedGroup]) -> dict[str, list[float]]:
    """Figures of each trajectory, by the metric that they are taken over."""
    ages = [float(age) for group in groups for age in group.staleness]
    return {
        "learner/response_mean_tokens": [float(len(r)) for g in groups for r in g.responses],
        "staleness/mean_steps": ages,
        "staleness/max_steps": ages,
    }


def _means_of_trajectories(group: PreparedGroup) -> dict[str, float]:
    values = _of_trajectories([group])
    return {name: sum(values[name]) / len(group.responses) for name in _MEANS_OF_TRAJECTORIES}


def worst_sample(rows: Sequence[Row]) -> WorstSample:
    """The worst sample of a step's groups; without one its id is empty."""
    means = [(row["learner/mismatch_kl_nats"], row["sample_id"]) for row in rows]
    finite = [(mean if math.isfinite(mean) else math.inf, name) for mean, name in means]
    most, name = max(finite, default=(0.0, ""))
    others = [mean for mean, _ in finite]
    has_others = len(others) > 1 and math.isfinite(most)
    of_others = (math.fsum(others) - most) / (len(others) - 1) if has_others else 0.0
    return WorstSample(most, name, of_others)


def counts_of_step(batch: PreparedBatch, ranks: Ranks) -> tuple[int, int, int]:
    """Groups, sequences and response tokens of a step over all ranks; all ranks call it."""
    sequences: Sequence[int] = [len(r) for group in batch.groups for r in group.responses]
    groups, number, tokens = ranks.sum([len(batch.groups), len(sequences), sum(sequences)])
    return round(groups), round(number), round(tokens)
