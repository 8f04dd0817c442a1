"""CV-Bench: 2,638 questions on counting, relations, depth and distance (Tong et al. 2024)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, accuracy_by, mean
from rollout.evaluation.hub import Repository, matching
from rollout.evaluation.items import EvaluationSet, Item, Reading, Scored
from rollout.evaluation.options import lettered
from rollout.evaluation.rows import Row, parquet_rows
from rollout.evaluation.sets.letters import letter_of

_FILES = ("test_2d.parquet", "test_3d.parquet")
_COLUMNS = ("idx", "type", "task", "image", "choices", "answer", "prompt", "source")


def read(folders: Sequence[Path]) -> Reading:
    paths = [path for file in _FILES for path in matching(folders[0], file)]
    rows = parquet_rows(paths, _COLUMNS)
    return Reading(rows.total, _items(rows.each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """Flat; the paper's mean of 2D and 3D; and the benchmark's own, ((ADE20K + COCO)/2 + Omni3D)/2.

    A mean is left out where one of its parts has no item.
    """
    figures = accuracy_by(scored, "type", "source", "task")
    two, three = figures.get("type = 2D"), figures.get("type = 3D")
    if two and three:
        figures["mean of 2D and 3D"] = mean([two, three])
    sources = [figures.get(f"source = {name}") for name in ("ADE20K", "COCO", "Omni3D")]
    ade, coco, omni = sources
    if ade and coco and omni:
        figures["official"] = mean([mean([ade, coco]), omni])
    return figures


def _items(rows: Iterator[Row]) -> Iterator[Item]:
    for row in rows:
        yield Item(
            set=CV_BENCH.name,
            id=f"{row.text('type')}/{row.text('idx')}",
            picture=row.picture("image"),
            crop=None,
            question=row.text("prompt"),
            options=lettered([choice.strip() for choice in row.texts("choices")]),
            answer=letter_of(row, "answer"),
            kind="choice",
            fields=row.present("type", "source", "task"),
        )


CV_BENCH = EvaluationSet(
    name="cv-bench",
    title="CV-Bench",
    repositories=(
        Repository("nyu-visionx/CV-Bench", _FILES, "bc284db50d036958861cb60cdd7b77612052ce0d"),
    ),
    counts=(2_638,),
    read=read,
    prompts={"paper": prompts.as_published, "lmms": prompts.lmms_cv_bench},
    breakdown=breakdown,
    headline="mean of 2D and 3D",
)
