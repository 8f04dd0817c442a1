"""Dataset rows from Parquet: one file, one schema, and a clear word about each bad row.

Columns: sample_id str or int, problem str (with one "<image>"), image str (path relative to the
file's folder), image_sha256 str, width int, height int, box list[4] of int | null, crop str | null,
crop_sha256 str | null, crop_width int | null, crop_height int | null, answer str or int | null.
Others are read by `read_columns` alone. Floats that are whole numbers are ints.

Sizes and boxes are in pixels of the upright picture, as `common.pictures` makes it: after its EXIF
orientation is applied. x2 and y2 are exclusive. A problem must hold no control token of the model.
The answer is read by `read_answers` alone: for measuring, and for the one option that shows it to
the teacher (teacher.view = "answer_hint"). The method proper trains without any label.

Only the rows are looked at here; `common.reading` also looks at pictures and at prompts' lengths.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from common.bad_rows import BadField, BadRow
from common.control_tokens import check_plain
from common.dataset_columns import (
    KINDS,
    REQUIRED,
    WORDS,
    box_of,
    picture_of_row,
    problem_of,
    sample_id_of,
    words_of,
)
from common.errors import DataError
from common.parquet_rows import Row, read_rows
from common.types import Sample


class Numbered(NamedTuple):
    """A good row."""

    row: int  # number in the file, from 0
    sample: Sample


def read_samples(
    path: Path, control_tokens: Sequence[str] = ()
) -> tuple[list[Sample], list[BadRow]]:
    """All good rows, and all bad ones, each in the order of the file.

    Args:
        control_tokens: texts that no problem may hold (`common.control_tokens`).

    Raises:
        DataError: the file cannot be read, lacks a column or has one of a wrong type, or no row is
            good.
    """
    samples: list[Sample] = []
    bad: list[BadRow] = []
    for found in parsed_rows(path, control_tokens):
        if isinstance(found, BadRow):
            bad.append(found)
        else:
            samples.append(found.sample)
    check_any(path, samples, bad)
    return samples, bad


def parsed_rows(path: Path, control_tokens: Sequence[str] = ()) -> Iterator[Numbered | BadRow]:
    """Read row by row, in the order of the file. Of rows with one sample_id the first keeps it.

    Raises:
        DataError: the file cannot be read, lacks a column or has one of a wrong type.
    """
    owners: dict[str, int] = {}
    for number, row in enumerate(read_rows(path, KINDS, REQUIRED)):
        name: str | None = None
        try:
            name = sample_id_of(row)
            if (owner := owners.setdefault(name, number)) != number:
                fix = "give each row a name of its own"
                raise BadField("sample_id", name, f"row {owner} has it too", fix)
            yield Numbered(number, sample_of(name, row, control_tokens, path.parent))
        except BadField as error:
            yield error.in_row(number, name)


def check_any(path: Path, samples: Sequence[Sample], bad: Sequence[BadRow]) -> None:
    """Refuse a set without a good row, with a DataError."""
    if not samples:
        first = f"{bad[0]}" if bad else "it is empty"
        raise DataError(f"{path} holds no usable row, of {len(bad)}. {first}")


class Answers(dict[str, str]):
    """sample_id -> reference answer, and the file that they stand in.

    LABELS. They are for measuring. Training reads them only where teacher.view = "answer_hint"
    says so, which is another method (OPSD): Vision-OPD itself never sees one.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, path: Path | None = None) -> None:
        super().__init__(answers or {})
        self.path = path

    def of(self, sample: Sample) -> str:
        """The reference answer of a sample; DataError if it has none."""
        if sample.sample_id not in self:
            raise DataError(
                f"sample {sample.sample_id} has no answer in {self.path or 'data.train'}, and "
                "teacher.view = answer_hint shows it to the teacher. Fix: fill its answer column, "
                "or choose a teacher.view that needs no label"
            )
        return self[sample.sample_id]


def read_answers(path: Path) -> Answers:
    """The answers of all rows that have one that is not blank; see `Answers` on their use.

    A cell that cannot be read counts as empty. Of rows with one sample_id the first counts.

    Raises:
        DataError: the file cannot be read, or the column holds neither text nor whole numbers.
    """
    return Answers(_words(path, "answer", ("sample_id",)), path)


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """sample_id -> cell, by column: of those that only people use. Cells count as answers do.

    Raises:
        DataError: the file cannot be read, or has no such column, or not of text or whole numbers.
    """
    return {column: _words(path, column, ("sample_id", column)) for column in columns}


def _words(path: Path, column: str, required: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for row in read_rows(path, {"sample_id": KINDS["sample_id"], column: WORDS}, required):
        with contextlib.suppress(BadField):
            name = sample_id_of(row)
            if name not in found:
                found[name] = None
                found[name] = words_of(row, column)
    return {name: words for name, words in found.items() if words is not None}


def sample_of(name: str, row: Row, control_tokens: Sequence[str], folder: Path) -> Sample:
    """The sample that a row holds.

    Args:
        folder: paths are relative to it; no file in it is looked at.

    Raises:
        BadField: a cell that will not do.
    """
    problem = problem_of(row)
    check_tokens(problem, control_tokens)
    image = picture_of_row(row, "image", "", folder)
    box = box_of(row, image.width, image.height)
    crop = None if row["crop"] is None else picture_of_row(row, "crop", "crop_", folder)
    try:
        return Sample(sample_id=name, problem=problem, image=image, box=box, crop=crop)
    except ValidationError as error:  # a rule of the record that is not known here
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadField(field, first["input"], first["msg"], "change it") from None


def check_tokens(problem: str, control_tokens: Sequence[str]) -> None:
    """Refuse a problem that holds a control token, with a BadField."""
    try:
        check_plain(problem, control_tokens, "problem")
    except DataError as error:
        raise BadField.of("problem", problem, error) from None
