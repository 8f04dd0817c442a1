"""HR-Bench 4K and 8K: 200 questions each, asked with the options in four orders (Wang et al. 2024).

The four replies to a question are not independent, so the intervals are too narrow.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, accuracy, accuracy_by, mean, parts
from rollout.evaluation.hub import Repository, matching
from rollout.evaluation.items import EvaluationSet, Item, Reading, Scored
from rollout.evaluation.rows import Row, parquet_rows
from rollout.evaluation.sets.letters import letter_of

_REVISION = "83b9013d6293b85dc507e87199ca52517536939c"
_COLUMNS = ("index", "question", "answer", "category", "image")
_OPTIONS = ("A", "B", "C", "D")
_ORDER = "cycle_category"


def read(name: str, folders: Sequence[Path]) -> Reading:
    paths = matching(folders[0], _file_of(name))
    rows = parquet_rows(paths, _COLUMNS, (*_OPTIONS, _ORDER))
    return Reading(rows.total, _items(name, rows.each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Flat, as the paper; and the mean over the four orders, as the benchmark's own tools."""
    orders = [accuracy(part) for part in parts(scored, _ORDER).values()]
    return {**accuracy_by(scored, "category", _ORDER), "mean of option orders": mean(orders)}


def _items(name: str, rows: Iterator[Row]) -> Iterator[Item]:
    for row in rows:
        texts = {letter: (row.text_or_none(letter) or "").strip() for letter in _OPTIONS}
        yield Item(
            set=name,
            id=row.text("index"),
            picture=row.picture("image"),
            crop=None,
            question=row.text("question"),
            options=tuple((letter, text) for letter, text in texts.items() if text),
            answer=letter_of(row, "answer"),
            kind="choice",
            fields=row.present("category", _ORDER),
        )


def _file_of(name: str) -> str:
    return f"hr_bench_{name.removeprefix('hrbench-')}.parquet"


def _set(name: str, title: str) -> EvaluationSet:
    return EvaluationSet(
        name=name,
        title=title,
        repositories=(Repository("DreamMr/HR-Bench", (_file_of(name),), _REVISION),),
        counts=(800,),
        read=partial(read, name),
        prompts={"paper": prompts.paper_hrbench, "lmms": prompts.lmms_hrbench},
        breakdown=breakdown,
    )


HRBENCH_4K = _set("hrbench-4k", "HR-Bench 4K")
HRBENCH_8K = _set("hrbench-8k", "HR-Bench 8K")
