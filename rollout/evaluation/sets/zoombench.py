"""ZoomBench: 845 questions, each with the picture and with the crop that holds the evidence."""

from common.scoring.option_letters import option_of
from rollout.evaluation import prompts
from rollout.evaluation.figures import accuracy_by
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.options import split_options
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import parquet_set

_FILES = "data/test*.parquet"
_COLUMNS = ("query", "response", "image", "crop_image")
_CATEGORIES = ("question_type", "category", "dimension", "sub_task")  # those that a row has


def _item(row: Row) -> Item:
    question, answer = row.text("query").strip(), row.text("response").strip()
    options = split_options(question).options
    option = option_of(answer)
    is_choice = option is not None and option[0] in dict(options)
    return Item(
        id=row.text_or_none("id") or str(row.number),
        picture=row.picture("image"),
        crop=row.picture_or_none("crop_image"),
        question=question,
        options=options if is_choice else (),
        answer=option[0] if option and is_choice else answer,
        kind="choice" if is_choice else "open",
        fields=row.present(*_CATEGORIES),
    )


ZOOMBENCH = EvaluationSet(
    name="zoombench",
    title="ZoomBench",
    repositories=(
        Repository("inclusionAI/ZoomBench", (_FILES,), "b788097e57d30510c6877824833234a73bf80d25"),
    ),
    counts=(845,),
    read=parquet_set((_FILES,), _COLUMNS, _item, ("id", *_CATEGORIES)),
    prompts={"paper": prompts.as_published},
    breakdown=lambda scored: accuracy_by(scored, *_CATEGORIES),
)
