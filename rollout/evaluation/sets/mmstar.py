"""MMStar: 1,500 questions that need the picture, in 6 categories of 3 (Chen et al. 2024)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, accuracy, accuracy_by, mean, parts
from rollout.evaluation.hub import Repository, matching
from rollout.evaluation.items import EvaluationSet, Item, Reading, Scored
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row, parquet_rows
from rollout.evaluation.sets.letters import letter_of

_FILES = "mmstar.parquet"
_COLUMNS = ("index", "question", "image", "answer", "category", "l2_category")


def read(folders: Sequence[Path]) -> Reading:
    rows = parquet_rows(matching(folders[0], _FILES), _COLUMNS)
    return Reading(rows.total, _items(rows.each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """The share over all items (the paper's), and the mean of 18 l2 categories (lmms-eval's)."""
    finer = [accuracy(part) for part in parts(scored, "l2_category").values()]
    return {**accuracy_by(scored, "category"), "mean of l2 categories": mean(finer)}


def _items(rows: Iterator[Row]) -> Iterator[Item]:
    for row in rows:
        question = row.text("question")
        yield Item(
            set=MMSTAR.name,
            id=row.text("index"),
            picture=row.picture("image"),
            crop=None,
            question=question,
            options=split_options(question).options,
            answer=letter_of(row, "answer"),
            kind="choice",
            fields=row.present("category", "l2_category"),
        )


MMSTAR = EvaluationSet(
    name="mmstar",
    title="MMStar",
    repositories=(
        Repository("Lin-Chen/MMStar", (_FILES,), "bc98d668301da7b14f648724866e57302778ab27"),
    ),
    counts=(1_500,),
    read=read,
    prompts={"paper": prompts.as_published, "lmms": prompts.lmms_mmstar},
    breakdown=breakdown,
)
