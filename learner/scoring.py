"""The teacher's side of a step: hidden states for the objective, and token weights.

The teacher sees all groups of a step before the student does, in micro-batches of its own: it keeps
no activations and its prompts are short. What stays of them is one hidden state a response token.
Axes: N response tokens of a group, D hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.config import RunConfig
from common.image_text_model import ImageTextModel
from learner.figures.stopwatch import Stopwatch
from learner.micro_batches import micro_batches
from learner.model.packing import pack
from learner.model.student import response_hidden_states
from learner.model.teacher import Teacher
from learner.model.transfer import sent
from learner.objective.head import MixedHeads, head_of
from learner.objective.loss import sampled_logprobs
from learner.objective.visual_advantage import token_multipliers
from learner.views.inputs import PreparedGroup, PromptView

PromptOf = Callable[[PreparedGroup], PromptView]
Rounds = Callable[[list[list[PreparedGroup]]], list[list[PreparedGroup]]]


@dataclass(frozen=True)
class Score:
    """The teacher's score of one group, its responses one after the other."""

    hidden: tuple[Tensor, ...]  # [N, D] for each of the teacher's models
    multiplier_N: Tensor | None  # float32, factor on each token's share of the loss; None means 1


class Scorer:
    """The teacher as the step runs it.

    Args:
        rounds: fills the micro-batches up to as many as the other ranks have.
    """

    def __init__(
        self,
        config: RunConfig,
        teacher: Teacher,
        device: torch.device,
        dtype: torch.dtype,
        rounds: Rounds,
    ) -> None:
        self._config = config
        self._teacher = teacher
        self._device = device
        self._dtype = dtype
        self._rounds = rounds

    @torch.no_grad()
    def scores(self, groups: Sequence[PreparedGroup], watch: Stopwatch) -> dict[str, Score]:
        """Score groups; the result is by group id."""
        with watch.part("teacher_forward"):
            hidden = self._hidden_states(groups, lambda group: group.teacher)
            multipliers: dict[str, Tensor] = {}
            if self._config.objective.token_weights == "visual_advantage":
                contrast = self._hidden_states(groups, _contrast)
                multipliers = self._multipliers(groups, hidden, contrast)
        return {name: Score(states, multipliers.get(name)) for name, states in hidden.items()}

    def filler_score(self, filler: PreparedGroup) -> Score:
        """The score of a filler, whose loss is multiplied by 0."""
        models = self._teacher.models
        rows = filler.num_response_tokens
        return Score(tuple(self._zeros(rows, model) for _, model in models), None)

    def heads(self, scores: Sequence[Score]) -> MixedHeads:
        """The teacher's side of the objective for some groups."""
        return self._mixed([score.hidden for score in scores])

    def _mixed(self, hidden: Sequence[tuple[Tensor, ...]]) -> MixedHeads:
        """The teacher's heads. All ranks call it, also without a group: heads may be sharded."""
        return tuple(
            (weight, head_of(model, self._joined([states[number] for states in hidden], model)))
            for number, (weight, model) in enumerate(self._teacher.models)
        )

    def _joined(self, parts: Sequence[Tensor], model: ImageTextModel) -> Tensor:
        if parts:
            return torch.cat(list(parts))
        return self._zeros(0, model)

    def _zeros(self, rows: int, model: ImageTextModel) -> Tensor:
        width = model.config.get_text_config().hidden_size
        return torch.zeros(rows, width, dtype=self._dtype, device=self._device)

    def _hidden_states(
        self, groups: Sequence[PreparedGroup], prompt_of: PromptOf
    ) -> dict[str, tuple[Tensor, ...]]:
        share_prefix = self._config.model.share_prefix
        budget = self._config.learner.teacher_batch_tokens
        parts = micro_batches(groups, prompt_of, budget, share_prefix)
        found: dict[str, tuple[Tensor, ...]] = {}
        for part in self._rounds(parts):
            row = pack([prompt_of(g) for g in part], [g.responses for g in part], share_prefix)
            row = row.to(self._device)
            sizes = [group.num_response_tokens for group in part]
            by_model = [
                torch.split(response_hidden_states(model, row, self._dtype), sizes)
                for _, model in self._teacher.models
            ]
            found |= zip((g.group_id for g in part), zip(*by_model, strict=True), strict=True)
        return found

    def _multipliers(
        self,
        groups: Sequence[PreparedGroup],
        picture: Mapping[str, tuple[Tensor, ...]],
        contrast: Mapping[str, tuple[Tensor, ...]],
    ) -> dict[str, Tensor]:
        """float32 [N] by group id: visual-advantage weights of its tokens."""
        config = self._config.objective
        logprobs = [self._sampled_logprobs(groups, hidden) for hidden in (picture, contrast)]
        found = {}
        for group, seen, unseen in zip(groups, *logprobs, strict=True):
            multipliers = token_multipliers(
                seen, unseen, share=config.visual_advantage_share, mass=config.visual_advantage_mass
            )
            joined_N = torch.from_numpy(np.concatenate(multipliers)).float()
            found[group.group_id] = sent(joined_N, self._device)
        return found

    def _sampled_logprobs(
        self, groups: Sequence[PreparedGroup], hidden: Mapping[str, tuple[Tensor, ...]]
    ) -> list[list[np.ndarray]]:
        """The teacher's log-probs of each response's tokens, by group, [T] each, nats."""
        heads = self._mixed([hidden[group.group_id] for group in groups])
        responses = [ids for group in groups for ids in group.responses]
        if not responses:
            return []
        ids_T = sent(torch.from_numpy(np.concatenate(responses)), self._device)
        logprobs_T = sampled_logprobs(heads, ids_T, self._config.rollout.temperature).cpu().numpy()
        ends = np.cumsum([len(ids) for ids in responses])[:-1]
        by_response = iter(np.split(logprobs_T, ends))
        return [[next(by_response) for _ in group.responses] for group in groups]


def _contrast(group: PreparedGroup) -> PromptView:
    assert group.contrast is not None, group.group_id  # the preparation has seen to it
    return group.contrast


def multipliers_of(scores: Mapping[str, Score], groups: Sequence[PreparedGroup]) -> Tensor | float:
    """float32 [T] of some groups' tokens; 1.0 where the run does not weigh them."""
    found = [scores[group.group_id].multiplier_N for group in groups]
    weighed = [multiplier for multiplier in found if multiplier is not None]
    return torch.cat(weighed) if weighed else 1.0
