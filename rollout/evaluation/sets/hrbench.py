"""HR-Bench 4K and 8K: 200 questions each, asked with the options in four orders (Wang et al. 2024).

The four replies to a question are not independent, so the intervals are too narrow.
"""

from collections.abc import Sequence

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy, accuracy_by, mean, parts
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import letter_of, parquet_set

_REVISION = "83b9013d6293b85dc507e87199ca52517536939c"
_COLUMNS = ("index", "question", "answer", "category", "image")
_OPTIONS = ("A", "B", "C", "D")
_ORDER = "cycle_category"


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Flat, as the paper; and the mean over the four orders, as the benchmark's own tools."""
    orders = [accuracy(part) for part in parts(scored, _ORDER).values()]
    return {**accuracy_by(scored, "category", _ORDER), "mean of option orders": mean(orders)}


def _item(row: Row) -> Item:
    texts = {letter: (row.text_or_none(letter) or "").strip() for letter in _OPTIONS}
    return Item(
        id=row.text("index"),
        picture=row.picture("image"),
        question=row.text("question"),
        options=tuple((letter, text) for letter, text in texts.items() if text),
        answer=letter_of(row, "answer"),
        fields=row.present("category", _ORDER),
    )


def _set(size: str) -> EvaluationSet:
    file = f"hr_bench_{size.lower()}.parquet"
    return EvaluationSet(
        name=f"hrbench-{size.lower()}",
        title=f"HR-Bench {size}",
        repositories=(Repository("DreamMr/HR-Bench", (file,), _REVISION),),
        counts=(800,),
        read=parquet_set((file,), _COLUMNS, _item, (*_OPTIONS, _ORDER)),
        prompts={"paper": prompts.paper_hrbench, "lmms": prompts.lmms_hrbench},
        breakdown=breakdown,
    )


HRBENCH_4K = _set("4K")
HRBENCH_8K = _set("8K")
