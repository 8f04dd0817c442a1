"""One group of a step, token by token."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from deploy.inspector.index import Index
from deploy.inspector.samples import shown_sample
from deploy.inspector.tokens import TokenDecoder
from deploy.inspector.trained_rows import TrainedRows

_MAX_OTHERS = 50
_LARGEST_RATIO = 20.0  # nats: as in the objective


def group(
    step: int,
    group_id: str,
    index: Index,
    trained: TrainedRows,
    texts: TokenDecoder,
    train: Path | None,
    importance_clip: float | None,
) -> dict[str, Any]:
    """The answer of `group`.

    Args:
        train: the data of the run, for question and box.
        importance_clip: objective.importance_clip. None means no weights, or that it is not known.

    Raises:
        DataError: there is no such group, as far as it is indexed.
        OSError, ValueError: a file of trajectories has gone.
    """
    is_meant = index.is_valid() & (index.columns["step"] == step)
    rows = trained.group(_batches(index, is_meant), group_id)
    if not rows:
        raise DataError(
            f"step {step} has no group {group_id!r}, as far as the run is indexed. Fix: take one "
            "from the list of trajectories"
        )
    sample_id = rows[0]["sample_id"]
    return {
        "step": step,
        "group_id": group_id,
        "sample": shown_sample(train, sample_id),
        "trajectories": [_trajectory(row, texts, importance_clip) for row in rows],
        "others": _others(sample_id, (step, group_id), index, trained),
    }


def _batches(index: Index, is_meant: np.ndarray) -> list[tuple[str, int]]:
    """The files and places of the batches that hold these rows."""
    files, offsets = (index.columns[name][is_meant] for name in ("file", "offset"))
    names = [file.name for file in index.manifest.files]
    pairs = sorted(set(zip(files.tolist(), offsets.tolist(), strict=True)))
    return [(names[file], offset) for file, offset in pairs]


def _others(
    sample_id: str, shown: tuple[int, str], index: Index, trained: TrainedRows
) -> list[dict[str, Any]]:
    """The other groups of the sample, by step."""
    code = index.code_of(sample_id)
    places = np.flatnonzero(index.is_valid() & (index.sample_codes == code))
    steps = index.columns["step"][places]
    _, first = np.unique(steps, return_index=True)
    places = places[first][:_MAX_OTHERS]
    names = [file.name for file in index.manifest.files]
    where = [
        (names[index.columns["file"][p]], int(index.columns["offset"][p]),
         int(index.columns["row"][p]))
        for p in places
    ]  # fmt: skip
    found = [
        (int(index.columns["step"][place]), row["group_id"])
        for place, row in zip(places, trained.rows(where), strict=True)
    ]
    return [{"step": step, "group_id": name} for step, name in found if (step, name) != shown]


def _trajectory(
    row: Mapping[str, Any], texts: TokenDecoder, importance_clip: float | None
) -> dict[str, Any]:
    ids = row["token_ids"]
    columns = zip(
        ids,
        texts.pieces(ids),
        row["divergence"],
        row["student_logprob"],
        row["teacher_logprob"],
        row["rollout_logprob"],
        row["entropy"],
        strict=True,
    )
    begins = [0, *row["span_ends"][:-1]]
    spans = zip(row["span_versions"], begins, row["span_ends"], strict=True)
    return {
        "index": row["index"],
        "finish": row["finish_reason"],
        "staleness": row["staleness"],
        "cache_version": row["cache_version"],
        "spans": [list(span) for span in spans],
        "text": texts.texts([ids])[0],
        "tokens": [
            {
                "id": number,
                "text": piece,
                "divergence": _finite(divergence),
                "student": _finite(student),
                "teacher": _finite(teacher),
                "rollout": _finite(rollout),
                "entropy": _finite(entropy),
                "weight": weight_of(student, rollout, importance_clip),
            }
            for number, piece, divergence, student, teacher, rollout, entropy in columns
        ],
    }


def weight_of(student: float, rollout: float, importance_clip: float | None) -> float | None:
    """The importance weight of a token. None means that it had none, or that it is not known."""
    if importance_clip is None or not math.isfinite(student - rollout):
        return None
    ratio = math.exp(min(max(student - rollout, -_LARGEST_RATIO), _LARGEST_RATIO))
    return round(min(ratio, importance_clip), 6)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
