"""A set of one's own: custom:FILE, JSON Lines or Parquet, one question a row.

    question     text; or problem, with <image> where the picture belongs
    picture      or image: a path inside the file's folder, bytes, base64, or an Image of `datasets`
    answer       text; with options the right one's letter or text; "yes" or "no"
    options      optional: a list of texts, or an object {"A": text}; put below the question
    crop, box    optional: the evidence, a picture as above, or [x1, y1, x2, y2] in pixels of the
                 upright picture, which is cut as for the teacher
    id           or sample_id: optional; else the row's number counts

Other columns that hold short texts are categories. The Parquet that `common.prepare` writes is such
a file. Options that stand in the question are found, if the answer names one of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.bad_rows import BadField
from common.config import TeacherSection
from common.dataset_columns import box_of
from common.errors import ConfigError
from common.pictures import decode_picture, encode_png
from common.scoring.option_letters import option_of
from common.views.regions import evidence_cut
from common.views.texts import IMAGE_PLACEHOLDER
from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy_by
from rollout.evaluation.items import EvaluationSet, Item, SetReading
from rollout.evaluation.options import lettered, lines, split_options
from rollout.evaluation.rows import Row, Rows, json_rows, parquet_rows
from rollout.evaluation.verdicts import Kind

_OWN = (
    *("question", "problem", "picture", "image", "answer", "options", "crop", "box", "id"),
    *("sample_id", "image_sha256", "crop_sha256"),
)
_LONGEST_CATEGORY = 100  # characters
_MOST_CATEGORIES = 40  # values of one field that get a figure each
_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": json_rows,
    ".parquet": lambda path: parquet_rows([path], (), None),
}


def custom_set(path: Path, teacher: TeacherSection) -> EvaluationSet:
    """The set of a file. Raises ConfigError: it is neither .jsonl nor .parquet.

    Args:
        teacher: how it cuts crops from boxes.
    """
    if path.suffix not in _READERS:
        raise ConfigError(f"custom set {path}: no .jsonl or .parquet file. Fix: name one")
    return EvaluationSet(
        name=f"custom:{path}",
        title=path.stem,
        read=lambda _: _read(path, teacher),
        prompts={"paper": lambda item: item.question},  # as in training, line breaks and all
        breakdown=breakdown,
    )


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Accuracy of all, and by each column that has few values."""
    values: dict[str, set[str]] = {}
    for one in scored:
        for field, value in one.fields.items():
            values.setdefault(field, set()).add(value)
    few = [field for field, found in values.items() if 1 < len(found) <= _MOST_CATEGORIES]
    return accuracy_by(scored, *few)


def _read(path: Path, teacher: TeacherSection) -> SetReading:
    rows = _READERS[path.suffix](path)
    return SetReading(rows.total, map(partial(_item, teacher), rows.each))


def _item(teacher: TeacherSection, row: Row) -> Item:
    question, options = _question(row)
    answer = row.text(_field(row, "answer")).strip()
    if not answer:
        raise row.error("answer", "is empty", "write the right answer, or drop the row")
    kind, options, answer = _form(row, question, options, answer)
    picture = row.picture(_field(row, "picture", "image"))
    return Item(
        id=row.text_or_none("id") or row.text_or_none("sample_id") or str(row.number),
        picture=picture,
        crop=row.picture_or_none("crop") or _cut(row, picture, teacher),
        question=question,
        options=options,
        answer=answer,
        kind=kind,
        fields=_categories(row.cells),
    )


def _question(row: Row) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The question and its options; those of a column of their own are put below it."""
    question = row.text(_field(row, "question", "problem")).replace(IMAGE_PLACEHOLDER, "")
    options = _own_options(row)
    if not options:
        return question, ()
    return f"{question}\n{lines(options, '({}) {}')}{prompts.LETTER_DIRECTLY}", options


def _own_options(row: Row) -> tuple[tuple[str, str], ...]:
    value = row.cells.get("options")
    if not value:
        return ()
    if isinstance(value, Mapping):  # Parquet gives every row all keys of the column
        given = {letter: text for letter, text in value.items() if text is not None}
        if all(isinstance(text, str) and option_of(letter) for letter, text in given.items()):
            return tuple((letter.upper(), text) for letter, text in sorted(given.items()))
        raise row.error("options", "is no object of letters and texts", 'write {"A": "red", ...}')
    return lettered(row.texts("options"))


def _form(
    row: Row, question: str, options: tuple[tuple[str, str], ...], answer: str
) -> tuple[Kind, tuple[tuple[str, str], ...], str]:
    """The kind, options and answer, as scoring wants them."""
    offered = options or split_options(question).options
    named = option_of(answer)
    if named is not None and named[0] in dict(offered):
        return "choice", offered, named[0]
    equal = [letter for letter, text in options if text.strip() == answer]
    if len(equal) == 1:
        return "choice", options, equal[0]
    if options:
        raise row.error("answer", "names none of the options", "write its letter or its text")
    if answer.casefold() in ("yes", "no"):
        return "yes_no", (), answer.casefold()
    return "open", (), answer


def _cut(row: Row, picture: bytes, teacher: TeacherSection) -> bytes | None:
    """The part of the picture in the box, as the teacher sees it."""
    if row.cells.get("box") is None:
        return None
    whole = decode_picture(picture, f"{row.file} row {row.number}")
    try:
        box = box_of(dict(row.cells), *whole.size)
    except BadField as error:
        raise row.error("box", error.problem, error.fix) from None
    assert box is not None
    return encode_png(evidence_cut(whole, box, teacher.crop_margin, teacher.crop_scale))


def _field(row: Row, *names: str) -> str:
    """The first of several names that the row has; else the first."""
    return next((name for name in names if row.cells.get(name) is not None), names[0])


def _categories(cells: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value
        for name, value in cells.items()
        if name not in _OWN and isinstance(value, str) and 0 < len(value) <= _LONGEST_CATEGORY
    }
