"""V*: 191 questions about small things in large pictures (Wu and Xie 2024)."""

from rollout.evaluation import prompts
from rollout.evaluation.figures import accuracy_by
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import letter_of, parquet_set

_FILES = "data/test-*.parquet"
_COLUMNS = ("image", "text", "label", "question_id", "category")


def _item(row: Row) -> Item:
    question = row.text("text")
    return Item(
        id=row.text("question_id"),
        picture=row.picture("image"),
        question=question,
        options=split_options(question).options,
        answer=letter_of(row, "label"),
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
    read=parquet_set((_FILES,), _COLUMNS, _item),
    prompts={"paper": prompts.ended(prompts.LETTER_DIRECTLY), "lmms": prompts.lmms_vstar},
    breakdown=lambda scored: accuracy_by(scored, "category"),
)
