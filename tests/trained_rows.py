"""Trained groups of made-up tokens, and RUN/trained folders of them, for tests and benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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

Step = tuple[int, Sequence[TrainedGroup], np.ndarray]


def trained_group(
    group_id: str, sample_id: str, lengths: Sequence[int], version: int, seed: int
) -> TrainedGroup:
    """Random ids below 100; a long response's second half is of the next version."""
    rng = np.random.default_rng(seed)
    trajectories = []
    for index, length in enumerate(lengths):
        half = length // 2
        spans = [VersionSpan(version, 0, half), VersionSpan(version + 1, half, length)]
        trajectories.append(
            Trajectory(
                index,
                rng.integers(0, 100, length).astype(np.int32),
                -rng.exponential(1.0, length).astype(np.float32),
                tuple(spans) if half and index % 2 else (VersionSpan(version, 0, length),),
                version,
                FinishReason.LENGTH if index % 3 == 2 else FinishReason.STOP,
            )
        )
    return TrainedGroup(group_id, sample_id, trajectories, [1] * len(lengths), 20, 10)


def token_figures(groups: Sequence[TrainedGroup], seed: int) -> np.ndarray:
    """float32 [len(TOKEN_FIGURES), T], made up."""
    tokens = sum(t.num_tokens for group in groups for t in group.trajectories)
    drawn = np.random.default_rng(seed).normal(0, 1, (len(TOKEN_FIGURES), tokens))
    return drawn.astype(np.float32)


def write_trained(
    run_folder: Path, steps: Sequence[Step], life: int = 1, rank: int = 0, from_step: int = 0
) -> Path:
    """Write a file as a learner's rank does in one life; returns its path."""
    path = TrainedFile.named(run_folder / FOLDER, life, rank).path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(schema_of_life(from_step).serialize())
        for step, groups, figures_FT in steps:
            file.write(record_batch(step, groups, figures_FT).serialize())
    return path
