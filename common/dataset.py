"""Dataset rows from Parquet: one file, one schema, clear errors for a bad row.

Columns: sample_id str, problem str (with one "<image>"), image str (path relative to the file's
folder), image_sha256 str, width int, height int, box list<int>[4] | null, crop str | null,
crop_sha256 str | null, crop_width int | null, crop_height int | null, answer str | null.
Sizes and boxes are in pixels of the upright picture, as `common.pictures` makes it: after its EXIF
orientation is applied. x2 and y2 are exclusive. A problem must hold no control token of the model.
The answer is read by `read_answers` alone: for measuring, and for the one option that shows it to
the teacher (teacher.view = "answer_hint"). The method proper trains without any label.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from common.control_tokens import check_plain
from common.errors import DataError
from common.types import Box, ImageRef, Sample

_REQUIRED = ("sample_id", "problem", "image", "image_sha256", "width", "height")


def read_samples(path: Path, control_tokens: Sequence[str] = ()) -> tuple[list[Sample], list[str]]:
    """All good rows in file order, and one line for each bad row.

    Args:
        control_tokens: texts that no problem may hold (`common.control_tokens`).

    Raises:
        DataError: the file cannot be read, lacks a column, repeats a sample_id, or has no good row.
    """
    samples: list[Sample] = []
    problems: list[str] = []
    seen: set[str] = set()
    for number, row in enumerate(_read_rows(path)):
        try:
            sample = _sample(row, control_tokens)
        except (ValidationError, ValueError, TypeError) as error:
            problems.append(f"{path} row {number}: {_one_line(error)}")
            continue
        if sample.sample_id in seen:
            raise DataError(f"{path} row {number}: sample_id {sample.sample_id!r} stands twice")
        seen.add(sample.sample_id)
        samples.append(sample)
    if not samples:
        raise DataError(f"{path} holds no usable row. {problems[0] if problems else 'It is empty'}")
    return samples, problems


class Answers(dict[str, str]):
    """sample_id -> reference answer, and the file that they stand in.

    LABELS. They are for measuring. Training reads them only where teacher.view = "answer_hint"
    says so, which is another method (OPSD): Vision-OPD itself never sees one.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, path: Path | None = None) -> None:
        super().__init__(answers or {})
        self.path = path

    def of(self, sample: Sample) -> str:
        """Raises DataError when the sample has none."""
        if sample.sample_id not in self:
            raise DataError(
                f"sample {sample.sample_id} has no answer in {self.path or 'data.train'}, and "
                "teacher.view = answer_hint shows it to the teacher. Fix: fill its answer column, "
                "or choose a teacher.view that needs no label"
            )
        return self[sample.sample_id]


def read_answers(path: Path) -> Answers:
    """The answers of all rows that have one that is not blank; see `Answers` on their use.

    Raises:
        DataError: the file cannot be read, or an answer is not a string.
    """
    answers = Answers(path=path)
    for number, row in enumerate(_read_rows(path)):
        answer = row.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise DataError(
                f"{path} row {number}: answer is {answer!r}, not a string. "
                "Fix: write the column as text"
            )
        if answer and answer.strip():
            answers[row["sample_id"]] = answer
    return answers


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"dataset {path}: {_one_line(error)}") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise DataError(f"dataset {path} lacks the columns {', '.join(missing)}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _sample(row: dict[str, Any], control_tokens: Sequence[str]) -> Sample:
    problem = row["problem"]
    if not isinstance(problem, str):
        raise ValueError(f"problem is {problem!r}, not text. Fix: write the column as text")
    if problem.count("<image>") != 1:
        raise ValueError('problem must hold "<image>" exactly once')
    check_plain(problem, control_tokens, "problem")
    box, crop = row.get("box"), row.get("crop")
    if box is None and crop is None:
        raise ValueError("neither box nor crop: the teacher would have no evidence")
    return Sample(
        sample_id=row["sample_id"],
        problem=problem,
        image=ImageRef(
            sha256=row["image_sha256"], path=row["image"], width=row["width"], height=row["height"]
        ),
        box=None if box is None else Box(**dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))),
        crop=None
        if crop is None
        else ImageRef(
            sha256=row["crop_sha256"],
            path=crop,
            width=row["crop_width"],
            height=row["crop_height"],
        ),
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())[:300]
