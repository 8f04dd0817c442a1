"""MMStar: 1,500 questions that need the picture, in 6 categories of 3 (Chen et al. 2024)."""

from collections.abc import Sequence

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy, accuracy_by, mean, parts
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import letter_of, parquet_set

_FILES = "mmstar.parquet"
_COLUMNS = ("index", "question", "image", "answer", "category", "l2_category")


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """The share over all items (the paper's), and the mean of 18 l2 categories (lmms-eval's)."""
    finer = [accuracy(part) for part in parts(scored, "l2_category").values()]
    return {**accuracy_by(scored, "category"), "mean of l2 categories": mean(finer)}


def _item(row: Row) -> Item:
    question = row.text("question")
    return Item(
        id=row.text("index"),
        picture=row.picture("image"),
        question=question,
        options=split_options(question).options,
        answer=letter_of(row, "answer"),
        fields=row.present("category", "l2_category"),
    )


MMSTAR = EvaluationSet(
    name="mmstar",
    title="MMStar",
    repositories=(
        Repository("Lin-Chen/MMStar", (_FILES,), "bc98d668301da7b14f648724866e57302778ab27"),
    ),
    counts=(1_500,),
    read=parquet_set((_FILES,), _COLUMNS, _item),
    prompts={"paper": prompts.as_published, "lmms": prompts.lmms_mmstar},
    breakdown=breakdown,
)
