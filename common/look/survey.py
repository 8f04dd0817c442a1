"""What a pass over all rows of a dataset finds: a few numbers a row, whatever the rows hold.

A hundred thousand rows take 12 MB. Pictures are not opened here: sizes are those of the rows.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.bad_rows import BadRow
from common.dataset import Numbered
from common.look.evidence import evidence_size
from common.look.token_counts import NO_SIZE, TokenCounts
from common.types import Sample

NO_BOX = -1
_KEPT = 5  # bad rows that are shown in full
_COLUMNS = {  # type codes of `array`: q int64, Q uint64
    "row": "q",  # number in the file, from 0
    "width": "q",
    "height": "q",
    "view_width": "q",  # teacher's view; 0 where the row has no evidence
    "view_height": "q",
    "x2": "q",
    "y2": "q",
    "box_pixels": "q",
    "characters": "q",  # length of the problem
    "student_tokens": "q",
    "teacher_tokens": "q",  # 0 where the row has no evidence, too
    "has_answer": "q",  # 0 or 1
    "content": "Q",  # what stands for the picture's digest, its path and the problem
    "path": "Q",
    "problem": "Q",
}


@dataclass(frozen=True)
class Survey:
    """What is known of a dataset."""

    path: Path
    columns: Mapping[str, np.ndarray]  # [G] each: one element a good row
    num_bad: int
    first_bad: tuple[BadRow, ...]
    shown: tuple[Numbered, ...]  # good rows among those that were chosen

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def has_evidence(self) -> np.ndarray:
        """Whether each good row has a box or a crop: bool [G]."""
        has_evidence: np.ndarray = self.columns["view_width"] > 0
        return has_evidence

    @property
    def num_good(self) -> int:
        return len(self.columns["row"])


def survey(
    path: Path,
    rows: Iterable[Numbered | BadRow],
    counts: TokenCounts,
    answered: Collection[str],
    chosen: Collection[int],
) -> Survey:
    """Go through all rows once, in bounded memory.

    Args:
        path: the file of the rows.
        answered: samples that have an answer.
        chosen: numbers of the rows to show.
    """
    columns = {name: array(code) for name, code in _COLUMNS.items()}
    bad: list[BadRow] = []
    shown: list[Numbered] = []
    num_bad = 0
    for found in rows:
        if isinstance(found, BadRow):
            num_bad += 1
            bad += [found] if len(bad) < _KEPT else []
            continue
        if found.row in chosen:
            shown.append(found)
        numbers = _numbers(found.sample, counts)
        numbers |= {"row": found.row, "has_answer": int(found.sample.sample_id in answered)}
        for name, column in columns.items():
            column.append(numbers[name])
    arrays = {name: np.array(column) for name, column in columns.items()}
    return Survey(path, arrays, num_bad, tuple(bad), tuple(shown))


def _numbers(sample: Sample, counts: TokenCounts) -> dict[str, int]:
    image, box = sample.image, sample.box
    view_width, view_height = evidence_size(sample) or (0, 0)
    student, teacher = prompt_tokens(sample, counts)
    return {
        "width": image.width,
        "height": image.height,
        "view_width": view_width,
        "view_height": view_height,
        "x2": NO_BOX if box is None else box.x2,
        "y2": NO_BOX if box is None else box.y2,
        "box_pixels": NO_BOX if box is None else (box.x2 - box.x1) * (box.y2 - box.y1),
        "characters": len(sample.problem),
        "student_tokens": student,
        "teacher_tokens": teacher,
        "content": int(image.sha256[:16], 16),
        "path": _key(image.path),
        "problem": _key(sample.problem),
    }


def prompt_tokens(sample: Sample, counts: TokenCounts) -> tuple[int, int]:
    """Tokens with the student's view and with the teacher's; 0 where there is no such picture."""
    text = counts.of_text(sample.problem)
    whole = counts.of_picture((sample.image.width, sample.image.height))
    evidence = evidence_size(sample)
    view = NO_SIZE if evidence is None else counts.of_picture(evidence)
    return whole and text + whole, view and text + view


def _key(text: str) -> int:
    """64 bits for a text: among a million texts two share a key once in 40 million sets."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
