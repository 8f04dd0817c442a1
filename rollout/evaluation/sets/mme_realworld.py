"""MME-RealWorld, its Chinese part and its Lite sample (Zhang et al. 2024). E declines to answer."""

import re
from collections.abc import Callable, Sequence

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy_by, share
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import letter_of, parquet_set

_FILES = "data/*.parquet"
_CHOICES, _L2 = "multi-choice options", "l2-category"
_COLUMNS = ("bytes", "index", "question", _CHOICES, "answer", "category", _L2)
_CHOICE = re.compile(r"\s*[(（]([A-E])[)）]\s*(.*)", re.DOTALL)  # noqa: RUF001
_REFUSAL = "E"


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Accuracy of all, of each part and of each task; and how often E is chosen."""
    refused = sum(one.verdict.said == _REFUSAL for one in scored)
    return {**accuracy_by(scored, "part", "category"), "refusals": share(refused, len(scored))}


def _item(row: Row) -> Item:
    choices = [choice.strip() for choice in row.texts(_CHOICES) if choice.strip()]
    category = row.text("category")
    return Item(
        id=row.text("index"),
        picture=row.picture("bytes"),
        question=row.text("question").strip(),
        options=tuple((m[1], m[2]) for c in choices if (m := _CHOICE.fullmatch(c))),
        answer=letter_of(row, "answer"),
        fields={
            "part": category.partition("/")[0],
            "category": category,
            "l2_category": row.text(_L2),
            "choices": "\n".join(choices),
        },
    )


def _set(
    name: str, title: str, repo: str, counts: tuple[int, ...], prompt: Callable[[Item], str]
) -> EvaluationSet:
    return EvaluationSet(
        name=name,
        title=title,
        repositories=(Repository(f"yifanzhang114/{repo}", (_FILES,)),),
        counts=counts,
        read=parquet_set((_FILES,), _COLUMNS, _item),
        prompts={"paper": prompt, "lmms": prompt},
        breakdown=breakdown,
    )


MME_REALWORLD = _set(
    "mme-realworld",
    "MME-RealWorld",
    "MME-RealWorld-Lmms-eval",
    (23_609,),
    prompts.mme_realworld,
)
MME_REALWORLD_CN = _set(
    "mme-realworld-cn",
    "MME-RealWorld-CN",
    "MME-RealWorld-CN-Lmms-eval",
    (5_462, 5_917),  # both were seen
    prompts.mme_realworld_cn,
)
MME_REALWORLD_LITE = _set(
    "mme-realworld-lite",
    "MME-RealWorld-Lite",
    "MME-RealWorld-lite-lmms-eval",
    (1_919,),
    prompts.mme_realworld,
)
