"""POPE: is there such a thing in the picture? 9,000 questions, three samplings (Li et al. 2023)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, accuracy_by, parts, share
from rollout.evaluation.hub import Repository, matching
from rollout.evaluation.items import EvaluationSet, Item, Reading, Scored
from rollout.evaluation.rows import Row, parquet_rows

_FILES = "data/test-*.parquet"
_COLUMNS = ("question_id", "question", "answer", "image", "category")


def read(folders: Sequence[Path]) -> Reading:
    rows = parquet_rows(matching(folders[0], _FILES), _COLUMNS)
    return Reading(rows.total, _items(rows.each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Yes is the positive answer. The share of yes is that of the replies, not of the labels."""
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


def _items(rows: Iterator[Row]) -> Iterator[Item]:
    for row in rows:
        category = row.text("category")
        yield Item(
            set=POPE.name,
            id=f"{category}/{row.text('question_id')}",  # each sampling counts anew
            picture=row.picture("image"),
            crop=None,
            question=row.text("question"),
            options=(),
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
    read=read,
    prompts=dict.fromkeys(("paper", "lmms"), prompts.ended(prompts.WORD_OR_PHRASE)),
    breakdown=breakdown,
)
