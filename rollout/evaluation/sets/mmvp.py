"""MMVP: 150 pairs of pictures that CLIP takes for the same (Tong et al. 2024).

Four labels are wrong as published, two pairs whose answers are swapped (lmms-eval issue 1018):
labels "corrected" turn them round.
"""

from collections.abc import Sequence
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy_alone, parts, share
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item, SetReading
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row, csv_rows
from rollout.evaluation.sets.published import letter_of

_QUESTIONS, _PICTURES = "Questions.csv", "MMVP Images"


def read(folders: Sequence[Path]) -> SetReading:
    rows = csv_rows(folders[0] / _QUESTIONS)
    return SetReading(rows.total, map(_item, rows.each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """The share of questions (the paper's), and of pairs with both right (the benchmark's).

    A pair with an item that has no reply is left out.
    """
    whole = [pair for pair in parts(scored, "pair").values() if len(pair) == 2]
    right = sum(all(one.verdict.outcome == "right" for one in pair) for pair in whole)
    return {**accuracy_alone(scored), "pairs": share(right, len(whole))}


def _item(row: Row) -> Item:
    index = _index(row)
    question = f"{row.text('Question').strip()} {row.text('Options').strip()}"
    named = Row(row.file, row.number, {"picture": f"{_PICTURES}/{index}.jpg"})
    return Item(
        id=str(index),
        picture=named.picture("picture"),
        question=question,
        options=split_options(question).options,
        answer=letter_of(row, "Correct Answer"),
        fields={"pair": f"{(index + 1) // 2:03}"},
    )


def _index(row: Row) -> int:
    """The index of a row, from 1. The published header has an l for the I."""
    field = "Index" if "Index" in row.cells else "lndex"
    text = row.text(field)
    if not text.isdecimal():
        raise row.error(field, "is no number", "take the published file")
    return int(text)


MMVP = EvaluationSet(
    name="mmvp",
    title="MMVP",
    repositories=(Repository("MMVP/MMVP", (_QUESTIONS, f"{_PICTURES}/*.jpg")),),
    counts=(300,),
    read=read,
    prompts={"paper": prompts.as_published, "lmms": prompts.lmms_mmvp},
    breakdown=breakdown,
    corrections={"99": "B", "100": "A", "279": "B", "280": "A"},
)
