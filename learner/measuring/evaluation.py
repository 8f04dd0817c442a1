"""Accuracy on held-out samples: greedy answers to the full image and to the evidence crop.

No figure made here reaches training, and the labels that are read for it do not either. (One option
of the teacher reads labels for training: `learner.views.training`.)
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from common.errors import DataError
from common.rendering import Renderer
from common.types import Sample
from learner.views.inputs import PromptView
from learner.views.prompts import PromptViews

logger = logging.getLogger(__name__)
BATCH_TOKENS = 2**14  # prompt tokens answered at once
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Accuracy:
    full: float  # share of samples answered correctly from the full image
    crop: float  # from the evidence crop, same questions
    samples: int


def gap_closed(before: Accuracy, after: Accuracy) -> float | None:
    """Share of the gap between crop and full image that training closed; None without a gap."""
    gap = before.crop - before.full
    return (after.full - before.full) / gap if gap > 0 else None


def last_word(text: str) -> str:
    """The last run of letters and digits, in lower case; "" when there is none."""
    words = _WORD.findall(text)
    return words[-1].lower() if words else ""


def is_correct(response: str, reference: str) -> bool:
    return bool(last_word(reference)) and last_word(response) == last_word(reference)


class Evaluation:
    """Measures a student on held-out samples.

    Args:
        views: its teacher view must be the crop, whatever the run's teacher sees.
        answers: sample id -> reference answer; samples without one are not measured.
        device: that the student computes on; none: where its weights are.
    """

    def __init__(
        self,
        renderer: Renderer,
        views: PromptViews,
        samples: Sequence[Sample],
        answers: Mapping[str, str],
        max_response_tokens: int,
        device: torch.device | None = None,
    ) -> None:
        self._device = device
        self._renderer = renderer
        self._views = views
        self._answers = answers
        self._max_response_tokens = max_response_tokens
        self.samples = [sample for sample in samples if sample.sample_id in answers]

    def measure(
        self, model: Any, num_samples: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Accuracy | None:
        """Accuracy over the first `num_samples` samples (0: all); None when stopped or empty."""
        samples, full_views, crop_views = self.usable(self.samples[: num_samples or None])
        if not samples:
            return None
        full = self.responses(model, full_views, should_stop)
        if full is None:
            return None
        crop = self.responses(model, crop_views, should_stop)
        if crop is None:
            return None
        return Accuracy(self._share(samples, full), self._share(samples, crop), len(samples))

    def usable(
        self, samples: Sequence[Sample]
    ) -> tuple[list[Sample], list[PromptView], list[PromptView]]:
        """The samples of which both views can be rendered, and these views."""
        kept: list[Sample] = []
        full_views: list[PromptView] = []
        crop_views: list[PromptView] = []
        views = zip(
            samples,
            self._views.students(samples),
            self._views.teachers(samples, [0] * len(samples)),
            strict=True,
        )
        for sample, full, crop in views:
            if isinstance(full, PromptView) and isinstance(crop, PromptView):
                kept.append(sample)
                full_views.append(full)
                crop_views.append(crop)
            else:
                error = full if isinstance(full, DataError) else crop
                logger.warning("held-out sample %s left out: %s", sample.sample_id, error)
        return kept, full_views, crop_views

    def responses(
        self,
        model: Any,
        prompts: Sequence[PromptView],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[np.ndarray] | None:
        """Greedy responses, int64 [T] each with the end-of-turn token; None when stopped."""
        found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(prompts)
        was_training = model.training
        model.eval()
        try:
            for numbers in _batches_of_equal_length(prompts):
                if should_stop():
                    return None
                batch = self._generate(model, [prompts[number] for number in numbers])
                for number, response in zip(numbers, batch, strict=True):
                    found[number] = response
        finally:
            model.train(was_training)
        return found

    def _generate(self, model: Any, prompts: Sequence[PromptView]) -> list[np.ndarray]:
        """One batch of prompts of one length, so that no prompt is padded."""
        device = self._device or next(model.parameters()).device
        input_ids = torch.stack([prompt.input_ids for prompt in prompts])
        with torch.no_grad():
            output = model.generate(
                input_ids=input_ids.to(device),
                attention_mask=torch.ones_like(input_ids).to(device),
                mm_token_type_ids=(input_ids == self._renderer.image_token_id).long().to(device),
                pixel_values=torch.cat([p.pixel_values for p in prompts]).to(device),
                image_grid_thw=torch.cat([p.image_grid_thw for p in prompts]).to(device),
                max_new_tokens=self._max_response_tokens,
                do_sample=False,
                # Ranks that share a model go on until the last of them has its answers.
                synced_gpus=isinstance(model.base_model, FSDPModule),
                suppress_tokens=self._renderer.vision_token_ids,
            )
        eos = end_token_ids(model)
        return [_cut(row, eos) for row in output[:, input_ids.shape[1] :].cpu().numpy()]

    def _share(self, samples: Sequence[Sample], responses: Sequence[np.ndarray]) -> float:
        pairs = zip(samples, responses, strict=True)
        return sum(self.is_correct(sample, ids) for sample, ids in pairs) / len(samples)

    def is_correct(self, sample: Sample, response: np.ndarray) -> bool:
        return is_correct(self._renderer.decode(response), self._answers[sample.sample_id])


def end_token_ids(model: Any) -> list[int]:
    """The tokens that end a response."""
    eos = model.generation_config.eos_token_id
    return list(eos) if isinstance(eos, list | tuple) else [eos]


def _batches_of_equal_length(prompts: Sequence[PromptView]) -> list[list[int]]:
    """Numbers of the prompts, batched by length; the order depends on nothing but the prompts."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[prompt.num_tokens].append(number)
    batches = []
    for length, numbers in sorted(by_length.items()):
        size = max(1, BATCH_TOKENS // length)
        batches += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return batches


def _cut(response: np.ndarray, eos: Sequence[int]) -> np.ndarray:
    """Without what `generate` fills shorter rows up with."""
    ends = np.flatnonzero(np.isin(response, eos))
    return response[: ends[0] + 1] if len(ends) else response
