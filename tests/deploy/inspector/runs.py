"""Run folders as learners leave them, for the tests of the inspector."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.group import Trajectory, VersionSpan
from common.trained import TrainedGroup
from common.types import FinishReason
from deploy.cluster.process_specs import ROOT
from deploy.inspector.index import IndexReader
from deploy.inspector.index_files import FOLDER
from deploy.inspector.indexing import IndexWriter
from tests.trained_rows import Step, token_figures

TOKENIZER = ROOT / "deploy" / "quickstart" / "checkpoint" / "tokenizer.json"
THE, TAG, SHOWS, RED, GREEN, ZERO, ONE, END = 24, 23, 25, 26, 27, 34, 35, 2  # of its vocabulary


def answered(
    group_id: str,
    sample_id: str,
    answers: Sequence[Sequence[int]],
    version: int = 0,
    staleness: int = 0,
    finish: FinishReason = FinishReason.STOP,
) -> TrainedGroup:
    """A group with these answers, token by token, of one version's weights."""
    trajectories = [
        Trajectory(
            index,
            np.array(ids, np.int32),
            -np.linspace(0.1, 1.0, len(ids), dtype=np.float32),
            (VersionSpan(version, 0, len(ids)),),
            version,
            finish,
        )
        for index, ids in enumerate(answers)
    ]
    return TrainedGroup(group_id, sample_id, trajectories, [staleness] * len(answers), 20, 10)


def step_of(step: int, groups: Sequence[TrainedGroup]) -> Step:
    """A step with figures drawn from its number."""
    return step, groups, token_figures(groups, step)


def with_tokenizer(run: Path) -> Path:
    """The quickstart's tokenizer, as a learner leaves it."""
    (run / "tokenizer").mkdir(parents=True, exist_ok=True)
    shutil.copy(TOKENIZER, run / "tokenizer" / "tokenizer.json")
    return run


def indexed(run: Path, rows_a_block: int = 1000) -> IndexReader:
    """A reader of the run's index, which is brought up to date."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    IndexWriter(run, folder, rows_a_block).round()
    return IndexReader(folder)


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
