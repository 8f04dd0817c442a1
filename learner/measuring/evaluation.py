"""Accuracy on held-out samples: what the answers of the rollout servers come to.

They are greedy, from the full image and from the evidence crop, and all of one version. No figure
made here reaches training, and the labels that are read for it do not either. (One option of the
teacher reads labels for training: `learner.views.training`.)
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.protocol import Answer, EvaluationView
from common.rendering import Renderer
from common.scoring.answers import is_correct
from common.types import Sample
from common.views.texts import IMAGE_PLACEHOLDER
from learner.measuring.items import Item, ItemFiles

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


@dataclass
class _Tally:
    """Counts of a measurement, by view where there are two."""

    right: list[int] = field(default_factory=lambda: [0] * VIEWS)
    cut: list[int] = field(default_factory=lambda: [0] * VIEWS)
    measured: int = 0

    def add(self, answers: Sequence[Answer], parts: Sequence[Item | None]) -> None:
        self.measured += 1
        for view, (answer, part) in enumerate(zip(answers, parts, strict=True)):
            self.right[view] += part is not None and bool(part["is_correct"])
            self.cut[view] += answer.is_cut


class Evaluation:
    """A judge of answers to held-out samples.

    Args:
        answers: sample id -> reference answer; samples without one are not measured.
        files: get the items of each measurement; None means that they are not kept.
    """

    def __init__(
        self,
        renderer: Renderer,
        samples: Sequence[Sample],
        answers: Mapping[str, str],
        files: ItemFiles | None = None,
    ) -> None:
        self._files = files
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
        tally = _Tally()
        items = self._judged_items(questions, answers, tally)
        if self._files is not None:
            self._files.write(version, items)
        for _ in items:  # those that are not written count as much
            pass
        if not tally.measured:
            return None
        shares = (count / tally.measured for count in (*tally.right, *tally.cut))
        full, crop, full_cut, crop_cut = shares
        return Accuracy(full, crop, tally.measured, full_cut, crop_cut, version)

    def judged(self, sample: Sample, response: Any) -> Item:
        """The text of a response, and whether it is right; None without a reference answer."""
        text = self._renderer.decode(response)
        reference = self._answers.get(sample.sample_id)
        return {
            "text": text,
            "is_correct": None if reference is None else is_correct(text, reference),
        }

    def _judged_items(
        self, questions: Questions, answers: Mapping[int, Answer], tally: _Tally
    ) -> Iterator[Item]:
        """Each sample with what was answered, counted; None where a view could not be asked."""
        for number, sample in enumerate(questions.samples):
            given = (answers.get(VIEWS * number + view) for view in range(VIEWS))
            parts = [self._part(sample, answer) for answer in given]
            pair = questions.pair(number, answers)
            if pair is None:
                self._leave_out(sample, number, answers)
            elif sample.sample_id in questions.counted:
                tally.add(pair, parts)
            yield {
                "sample_id": sample.sample_id,
                "question": question_of(sample),
                "answer": self._answers.get(sample.sample_id),
                "full": parts[0],
                "crop": parts[1],
            }

    def _part(self, sample: Sample, answer: Answer | None) -> Item | None:
        if answer is None or answer.error:
            return None
        return self.judged(sample, answer.token_ids)

    def _leave_out(self, sample: Sample, number: int, answers: Mapping[int, Answer]) -> None:
        if sample.sample_id in self._left_out:
            return
        self._left_out.add(sample.sample_id)
        items = (answers.get(VIEWS * number + view) for view in range(VIEWS))
        reason = next((item.error for item in items if item is not None and item.error), "")
        logger.warning("held-out sample %s left out: %s", sample.sample_id, reason or "no answer")


def question_of(sample: Sample) -> str:
    """The question as people read it, without the place of the picture."""
    return sample.problem.replace(IMAGE_PLACEHOLDER, "").strip()
