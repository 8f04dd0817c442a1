"""The sets that a model can be measured on, by name.

    vstar, zoombench, hrbench, mme_realworld, mmstar, pope, cv_bench, mmvp, visualprobe    published
    custom      a file of one's own
    published   what published sets have in common

How to add a set: a module that defines an `EvaluationSet`, and its place in `_ALL` below.
tests/rollout/evaluation holds every set to the form of its published files.
"""

from pathlib import Path

from common.config import TeacherSection
from common.errors import ConfigError
from rollout.evaluation.items import EvaluationSet
from rollout.evaluation.sets.custom import custom_set
from rollout.evaluation.sets.cv_bench import CV_BENCH
from rollout.evaluation.sets.hrbench import HRBENCH_4K, HRBENCH_8K
from rollout.evaluation.sets.mme_realworld import (
    MME_REALWORLD,
    MME_REALWORLD_CN,
    MME_REALWORLD_LITE,
)
from rollout.evaluation.sets.mmstar import MMSTAR
from rollout.evaluation.sets.mmvp import MMVP
from rollout.evaluation.sets.pope import POPE
from rollout.evaluation.sets.visualprobe import VISUALPROBE
from rollout.evaluation.sets.vstar import VSTAR
from rollout.evaluation.sets.zoombench import ZOOMBENCH

_ALL = (
    *(VSTAR, ZOOMBENCH, HRBENCH_4K, HRBENCH_8K),
    *(MME_REALWORLD, MME_REALWORLD_CN, MME_REALWORLD_LITE),
    *(MMSTAR, POPE, CV_BENCH, MMVP, VISUALPROBE),
)
SETS: dict[str, EvaluationSet] = {one.name: one for one in _ALL}
CUSTOM = "custom:"


def find_set(name: str, teacher: TeacherSection | None = None) -> EvaluationSet:
    """A published set by its name, or custom:FILE. Raises ConfigError.

    Args:
        teacher: how crops are cut from boxes, where a set has none; None means as published.
    """
    if name.startswith(CUSTOM):
        return custom_set(Path(name.removeprefix(CUSTOM)), teacher or TeacherSection())
    if name not in SETS:
        raise ConfigError(
            f"no set {name!r}. Fix: choose from {', '.join(SETS)}, or {CUSTOM}FILE with a .jsonl "
            "or .parquet file of your own"
        )
    return SETS[name]
