"""Accuracy on held-out samples: what the answers of the rollout servers come to.

They are greedy, from the full image and from the evidence crop, and all of one version. No figure
made here reaches training, and the labels that are read for it do not either. (One option of the
teacher reads labels for training: `learner.views.training`.)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.protocol import Answer, EvaluationView
from common.rendering import Renderer
from common.scoring.answers import is_correct
from common.types import Sample

logger = logging.getLogger(__name__)
VIEWS = len(EvaluationView)  # items a sample: the full image, then the crop


@dataclass(frozen=True)
class Accuracy:
    full: float  # share of samples answered correctly from the full image
    crop: float  # from the evidence crop, same questions
    samples: int
    full_cut: float = 0.0  # share of these answers that the length limit cut; judged all the same
    crop_cut: float = 0.0
    version: int = 0  # version of the weights that answered

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Accuracy":
        """A measurement as metrics.jsonl has it."""
        full, crop, samples = (
            row[f"evaluation/{name}"] for name in ("full_accuracy", "crop_accuracy", "samples")
        )
        full_cut, crop_cut = (
            row.get(f"evaluation/{view}_cut_share", 0.0) for view in ("full", "crop")
        )
        return Accuracy(full, crop, samples, full_cut, crop_cut, row["step"])


def gap_closed(before: Accuracy, after: Accuracy) -> float | None:
    """Share of the gap between crop and full image that training closed; None without a gap."""
    gap = before.crop - before.full
    return (after.full - before.full) / gap if gap > 0 else None


@dataclass(frozen=True)
class Questions:
    """What one measurement asks: samples that are shown, then those that are only counted."""

    samples: tuple[Sample, ...]
    num_shown: int
    counted: frozenset[str]  # ids of those that the accuracy is of

    @property
    def num_items(self) -> int:
        return VIEWS * len(self.samples)

    @property
    def shown_items(self) -> range:
        return range(VIEWS * self.num_shown)

    def pair(self, number: int, answers: Mapping[int, Answer]) -> tuple[Answer, Answer] | None:
        """The answers to a sample's two views; None when one of them could not be asked."""
        full, crop = (answers.get(VIEWS * number + view) for view in range(VIEWS))
        if full is None or crop is None or full.error or crop.error:
            return None
        return full, crop


class Evaluation:
    """A judge of answers to held-out samples.

    Args:
        answers: sample id -> reference answer; samples without one are not measured.
    """

    def __init__(
        self, renderer: Renderer, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> None:
        self._renderer = renderer
        self._answers = answers
        self._left_out: set[str] = set()  # ids that have been told
        self._all = list(samples)
        self.samples = [sample for sample in samples if sample.sample_id in answers]

    def questions(self, num_samples: int, num_shown: int = 0) -> Questions:
        """Ask about the first `num_samples` samples (0 means all), and those the report shows."""
        counted = self.samples[: num_samples or None]
        shown = self._all[:num_shown]
        known = {sample.sample_id for sample in shown}
        rest = [sample for sample in counted if sample.sample_id not in known]
        ids = frozenset(sample.sample_id for sample in counted)
        return Questions((*shown, *rest), len(shown), ids)

    def accuracy(
        self, questions: Questions, answers: Mapping[int, Answer], version: int
    ) -> Accuracy | None:
        """The accuracy, or None when no sample could be asked.

        A sample that could not be asked is left out, and logged once.

        Args:
            answers: by item.
        """
        right, cut, measured = [0, 0], [0, 0], 0
        for number, sample in enumerate(questions.samples):
            pair = questions.pair(number, answers)
            if pair is None:
                self._leave_out(sample, number, answers)
            elif sample.sample_id in questions.counted:
                measured += 1
                for view, answer in enumerate(pair):
                    right[view] += self.is_correct(sample, answer.token_ids)
                    cut[view] += answer.is_cut
        if not measured:
            return None
        full, crop, full_cut, crop_cut = (count / measured for count in (*right, *cut))
        return Accuracy(full, crop, measured, full_cut, crop_cut, version)

    def is_correct(self, sample: Sample, response: Any) -> bool:
        return is_correct(self._renderer.decode(response), self._answers[sample.sample_id])

    def is_known(self, sample: Sample) -> bool:
        """Whether there is a reference answer."""
        return sample.sample_id in self._answers

    def _leave_out(self, sample: Sample, number: int, answers: Mapping[int, Answer]) -> None:
        if sample.sample_id in self._left_out:
            return
        self._left_out.add(sample.sample_id)
        items = (answers.get(VIEWS * number + view) for view in range(VIEWS))
        reason = next((item.error for item in items if item is not None and item.error), "")
        logger.warning("held-out sample %s left out: %s", sample.sample_id, reason or "no answer")
