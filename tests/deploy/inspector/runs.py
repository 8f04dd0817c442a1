"""Run folders with trajectories, as a learner leaves them."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from common.group import Trajectory, VersionSpan
from common.trained import (
    FOLDER,
    TOKEN_FIGURES,
    TrainedFile,
    TrainedGroup,
    record_batch,
    schema_of_life,
)
from common.types import FinishReason

TOKENIZER = Path("deploy/quickstart/checkpoint/tokenizer.json")


@dataclass(frozen=True)
class Answer:
    """A trajectory that a test asks for."""

    ids: Sequence[int]
    staleness: int = 0
    finish: FinishReason = FinishReason.STOP


@dataclass(frozen=True)
class Trained:
    """A group of a step."""

    group_id: str
    sample_id: str
    answers: Sequence[Answer]


def batch_of(step: int, groups: Sequence[Trained], seed: int) -> pa.RecordBatch:
    """The batch of a step with figures drawn from a seed."""
    random = np.random.default_rng(seed)
    made = [_group(step, group, random) for group in groups]
    size = sum(len(answer.ids) for group in groups for answer in group.answers)
    figures = -random.exponential(1.0, (len(TOKEN_FIGURES), size)).astype(np.float32)
    figures[2:] *= -1  # divergence and entropy
    return record_batch(step, made, figures)


def _group(step: int, group: Trained, random: np.random.Generator) -> TrainedGroup:
    trajectories = [
        Trajectory(
            index,
            np.array(answer.ids, np.int32),
            -random.exponential(1.0, len(answer.ids)).astype(np.float32),
            (VersionSpan(step - 1 - answer.staleness, 0, len(answer.ids)),),
            step - 1 - answer.staleness,
            answer.finish,
        )
        for index, answer in enumerate(group.answers)
    ]
    ages = [answer.staleness for answer in group.answers]
    return TrainedGroup(group.group_id, group.sample_id, trajectories, ages, 10, 12)


def write_life(
    run: Path,
    batches: Iterable[pa.RecordBatch],
    life: int = 1,
    rank: int = 0,
    from_step: int = 0,
) -> Path:
    """A whole file of RUN/trained; returns its path."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    path = TrainedFile.named(run / FOLDER, life, rank).path
    with path.open("wb") as file, pa.ipc.new_stream(file, schema_of_life(from_step)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def with_tokenizer(run: Path) -> Path:
    """The quickstart's tokenizer, as a learner leaves it."""
    (run / "tokenizer").mkdir(parents=True, exist_ok=True)
    shutil.copy(TOKENIZER, run / "tokenizer" / "tokenizer.json")
    return run


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
