"""V*: 191 questions about small things in large pictures (Wu and Xie 2024)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import accuracy_by
from rollout.evaluation.hub import Repository, matching
from rollout.evaluation.items import EvaluationSet, Item, Reading
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row, parquet_rows
from rollout.evaluation.sets.letters import letter_of

_FILES = "data/test-*.parquet"
_COLUMNS = ("image", "text", "label", "question_id", "category")


def read(folders: Sequence[Path]) -> Reading:
    rows = parquet_rows(matching(folders[0], _FILES), _COLUMNS)
    return Reading(rows.total, _items(rows.each))


def _items(rows: Iterator[Row]) -> Iterator[Item]:
    for row in rows:
        question = row.text("text")
        yield Item(
            set=VSTAR.name,
            id=row.text("question_id"),
            picture=row.picture("image"),
            crop=None,
            question=question,
            options=split_options(question).options,
            answer=letter_of(row, "label"),
            kind="choice",
            fields=row.present("category"),
        )


VSTAR = EvaluationSet(
    name="vstar",
    title="V*",
    repositories=(
        Repository(
            "lmms-lab-encoder/vstar-bench",  # lmms-lab/vstar-bench until July 2026
            (_FILES,),
            "b44023b4dca749ed8a76b85eb576627d05a1c174",
        ),
    ),
    counts=(191,),
    read=read,
    prompts={"paper": prompts.ended(prompts.LETTER_DIRECTLY), "lmms": prompts.lmms_vstar},
    breakdown=lambda scored: accuracy_by(scored, "category"),
)
