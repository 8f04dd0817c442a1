"""POPE: is there such a thing in the picture? 9,000 questions, three samplings (Li et al. 2023)."""

from collections.abc import Sequence

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy_by, parts, share
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import parquet_set

_FILES = "data/test-*.parquet"
_COLUMNS = ("question_id", "question", "answer", "image", "category")


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Accuracy and detection, "yes" being positive; the share of yes is that of the replies."""
    figures = {**accuracy_by(scored, "category"), **_detection(scored)}
    for category, part in parts(scored, "category").items():
        figures[f"F1, category = {category}"] = _detection(part)["F1"]
    return figures


def _detection(scored: Sequence[Scored]) -> dict[str, Figure]:
    said = [one for one in scored if one.verdict.said == "yes"]
    true = [one for one in scored if one.answer == "yes"]
    hits = sum(one.verdict.outcome == "right" for one in said)
    either = len(said) + len(true)
    return {
        "precision": share(hits, len(said)),
        "recall": share(hits, len(true)),
        "F1": Figure(2 * hits / either if either else 0.0),
        "yes": share(len(said), len(scored)),
    }


def _item(row: Row) -> Item:
    category = row.text("category")
    return Item(
        id=f"{category}/{row.text('question_id')}",  # each sampling counts anew
        picture=row.picture("image"),
        question=row.text("question"),
        answer=_answer(row),
        kind="yes_no",
        fields={"category": category},
    )


def _answer(row: Row) -> str:
    answer = row.text("answer").strip().lower()
    if answer not in ("yes", "no"):
        raise row.error("answer", "is neither yes nor no", "take the published file")
    return answer


POPE = EvaluationSet(
    name="pope",
    title="POPE",
    repositories=(
        Repository(
            "lmms-lab-encoder/POPE",  # lmms-lab/POPE until July 2026
            (_FILES,),
            "4db1276663dfa5eb8ad16a52d24c31a09e470896",
        ),
    ),
    counts=(9_000,),
    read=parquet_set((_FILES,), _COLUMNS, _item),
    prompts=dict.fromkeys(("paper", "lmms"), prompts.ended(prompts.WORD_OR_PHRASE)),
    breakdown=breakdown,
)
