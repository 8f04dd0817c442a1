"""Accuracy on held-out samples: greedy answers to the full image and to the evidence crop.

    samples > window: render some > answer them in batches of one length > judge > drop > next

No figure made here reaches training, and the labels that are read for it do not either. (One option
of the teacher reads labels for training: `learner.views.training`.)
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from common.end_tokens import end_token_ids_of
from common.errors import DataError
from common.rendering import Renderer
from common.scoring.answers import is_correct
from common.types import Sample
from learner.measuring.greedy import greedy_responses, is_cut
from learner.views.inputs import PromptView
from learner.views.prompts import PromptViews

logger = logging.getLogger(__name__)
BATCH_TOKENS = 2**14  # prompt tokens answered at once
WINDOW_BYTES = 2**28  # of rendered views; the last sample of a window may go beyond


@dataclass(frozen=True)
class Accuracy:
    full: float  # share of samples answered correctly from the full image
    crop: float  # from the evidence crop, same questions
    samples: int
    full_cut: float = 0.0  # share of these answers that the length limit cut; judged all the same
    crop_cut: float = 0.0


def gap_closed(before: Accuracy, after: Accuracy) -> float | None:
    """Share of the gap between crop and full image that training closed; None without a gap."""
    gap = before.crop - before.full
    return (after.full - before.full) / gap if gap > 0 else None


@dataclass
class Window:
    """Samples of which both views are rendered."""

    samples: list[Sample] = field(default_factory=list)
    full: list[PromptView] = field(default_factory=list)
    crop: list[PromptView] = field(default_factory=list)
    num_bytes: int = 0  # of the views

    def add(self, sample: Sample, full: PromptView, crop: PromptView) -> None:
        self.samples.append(sample)
        self.full.append(full)
        self.crop.append(crop)
        self.num_bytes += full.num_bytes + crop.num_bytes

    def clear(self) -> None:
        for part in (self.samples, self.full, self.crop):
            part.clear()
        self.num_bytes = 0


@dataclass
class _Tally:
    right: int = 0
    cut: int = 0


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
        self._left_out: set[str] = set()  # ids that have been told
        self.samples = [sample for sample in samples if sample.sample_id in answers]

    def measure(
        self, model: Any, num_samples: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Accuracy | None:
        """Accuracy over the first `num_samples` samples (0: all); None when stopped or empty."""
        measured, full, crop = 0, _Tally(), _Tally()
        for window in self.windows(self.samples[: num_samples or None]):
            for tally, prompts in ((full, window.full), (crop, window.crop)):
                responses = self.responses(model, prompts, should_stop)
                if responses is None:
                    return None
                self._count(tally, model, window.samples, responses)
            measured += len(window.samples)
        if not measured:
            return None
        shares = (count / measured for count in (full.right, crop.right, full.cut, crop.cut))
        full_right, crop_right, full_cut, crop_cut = shares
        return Accuracy(full_right, crop_right, measured, full_cut, crop_cut)

    def windows(self, samples: Sequence[Sample]) -> Iterator[Window]:
        """The samples of which both views can be rendered, a bounded part at a time.

        A window's lists are emptied when the next one is asked for: views are large, and the held-
        out set may be, too. The parts depend on nothing but the samples, so that ranks agree.
        """
        window = Window()
        for sample in samples:  # one by one: with several in one array the heap falls to pieces
            self._render(sample, window)
            if window.num_bytes >= WINDOW_BYTES:
                yield window
                window.clear()
        if window.samples:
            yield window

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
                batch = self._respond(model, [prompts[number] for number in numbers])
                for number, response in zip(numbers, batch, strict=True):
                    found[number] = response
        finally:
            model.train(was_training)
        return found

    def is_correct(self, sample: Sample, response: np.ndarray) -> bool:
        return is_correct(self._renderer.decode(response), self._answers[sample.sample_id])

    def _respond(self, model: Any, prompts: Sequence[PromptView]) -> list[np.ndarray]:
        return greedy_responses(
            model,
            prompts,
            image_token_id=self._renderer.image_token_id,
            banned=self._renderer.vision_token_ids,
            ends=self._ends(model),
            max_tokens=self._max_response_tokens,
            device=self._device or next(model.parameters()).device,
        )

    def _ends(self, model: Any) -> list[int]:
        return end_token_ids_of(model, self._renderer.tokenizer)

    def _render(self, sample: Sample, window: Window) -> None:
        """Add a sample if both of its views can be rendered."""
        (full,), (crop,) = self._views.students([sample]), self._views.teachers([sample], [0])
        if isinstance(full, PromptView) and isinstance(crop, PromptView):
            window.add(sample, full, crop)
        else:
            self._leave_out(sample, full if isinstance(full, DataError) else crop)

    def _leave_out(self, sample: Sample, error: object) -> None:
        if sample.sample_id not in self._left_out:
            self._left_out.add(sample.sample_id)
            logger.warning("held-out sample %s left out: %s", sample.sample_id, error)

    def _count(
        self, tally: _Tally, model: Any, samples: Sequence[Sample], responses: Sequence[np.ndarray]
    ) -> None:
        ends = self._ends(model)
        for sample, response in zip(samples, responses, strict=True):
            tally.right += self.is_correct(sample, response)
            tally.cut += is_cut(response, ends)


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
