"""CV-Bench: 2,638 questions on counting, relations, depth and distance (Tong et al. 2024)."""

from collections.abc import Sequence

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy_by, mean
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item
from rollout.evaluation.options import lettered
from rollout.evaluation.rows import Row
from rollout.evaluation.sets.published import letter_of, parquet_set

_FILES = ("test_2d.parquet", "test_3d.parquet")
_COLUMNS = ("idx", "type", "task", "image", "choices", "answer", "prompt", "source")


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


def _item(row: Row) -> Item:
    return Item(
        id=f"{row.text('type')}/{row.text('idx')}",
        picture=row.picture("image"),
        question=row.text("prompt"),
        options=lettered([choice.strip() for choice in row.texts("choices")]),
        answer=letter_of(row, "answer"),
        fields=row.present("type", "source", "task"),
    )


CV_BENCH = EvaluationSet(
    name="cv-bench",
    title="CV-Bench",
    repositories=(
        Repository("nyu-visionx/CV-Bench", _FILES, "bc284db50d036958861cb60cdd7b77612052ce0d"),
    ),
    counts=(2_638,),
    read=parquet_set(_FILES, _COLUMNS, _item),
    prompts={"paper": prompts.as_published, "lmms": prompts.lmms_cv_bench},
    breakdown=breakdown,
    headline="mean of 2D and 3D",
)
