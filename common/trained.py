"""RUN/trained/: every trajectory that was trained, token by token, as the learner saw it.

Each rank has a file for each life of the learner, `life-0001-rank-000.arrow`: an Arrow IPC stream
with a record batch a step and a row a trajectory. A stream whose writer was killed may be torn at
its end. Rows of an earlier life of steps after the one that a later life went on from are undone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from common.group import Trajectory

FOLDER = "trained"
FORMAT = b"1"
TOKEN_FIGURES = ("student_logprob", "teacher_logprob", "divergence", "entropy")  # nats
_FILE = re.compile(r"life-(\d{4,})-rank-(\d{3,})\.arrow")
_NUMBERS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_NATS = pa.list_(pa.field("item", pa.float32(), nullable=False))
SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("step", pa.int32()),  # the version that the step made of the version before
            ("group_id", pa.string()),
            ("sample_id", pa.string()),
            ("index", pa.int32()),  # within its group
            ("staleness", pa.int32()),  # steps
            ("finish_reason", pa.string()),
            ("cache_version", pa.int32()),  # oldest weights behind any cache entry
            ("span_versions", _NUMBERS),  # of the weights behind a span of tokens
            ("span_ends", _NUMBERS),  # first token behind the span
            ("student_prompt_tokens", pa.int32()),
            ("teacher_prompt_tokens", pa.int32()),
            ("token_ids", _NUMBERS),
            ("rollout_logprob", _NATS),  # of the sampled token, under the sampling law
            ("student_logprob", _NATS),  # the same, by the learner
            ("teacher_logprob", _NATS),  # of the sampled token, over the whole vocabulary
            ("divergence", _NATS),  # teacher against student, unweighted
            ("entropy", _NATS),  # of the student
        )
    ]
)


class TrainedGroup(NamedTuple):
    """A group as it was trained."""

    group_id: str
    sample_id: str
    trajectories: Sequence[Trajectory]
    staleness: Sequence[int]  # steps, of each trajectory
    student_prompt_tokens: int
    teacher_prompt_tokens: int


def record_batch(
    step: int, groups: Sequence[TrainedGroup], figures_FT: np.ndarray
) -> pa.RecordBatch:
    """The rows of one step.

    Args:
        figures_FT: float32 [len(TOKEN_FIGURES), T], of the groups' tokens in their order.
    """
    rows = [(group, t) for group in groups for t in group.trajectories]
    spans = [t.version_spans for _, t in rows]
    span_offsets = pa.array([0, *accumulate(map(len, spans))], pa.int32())
    lengths = [t.num_tokens for _, t in rows]
    token_offsets = pa.array([0, *accumulate(lengths)], pa.int32())

    def of_rows(values: Sequence[object], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind)

    def of_spans(values: Sequence[int]) -> pa.Array:
        return pa.ListArray.from_arrays(span_offsets, pa.array(values, pa.int32()), type=_NUMBERS)

    def of_tokens(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(token_offsets, pa.array(values), type=kind)

    ids = [t.response_token_ids for _, t in rows]
    rollout = [t.rollout_logprobs for _, t in rows]
    columns = {
        "step": of_rows([step] * len(rows), pa.int32()),
        "group_id": of_rows([group.group_id for group, _ in rows], pa.string()),
        "sample_id": of_rows([group.sample_id for group, _ in rows], pa.string()),
        "index": of_rows([t.index for _, t in rows], pa.int32()),
        "staleness": of_rows([age for group in groups for age in group.staleness], pa.int32()),
        "finish_reason": of_rows([str(t.finish_reason) for _, t in rows], pa.string()),
        "cache_version": of_rows([t.cache_version for _, t in rows], pa.int32()),
        "span_versions": of_spans([span.version for own in spans for span in own]),
        "span_ends": of_spans([span.end for own in spans for span in own]),
        "student_prompt_tokens": of_rows([g.student_prompt_tokens for g, _ in rows], pa.int32()),
        "teacher_prompt_tokens": of_rows([g.teacher_prompt_tokens for g, _ in rows], pa.int32()),
        "token_ids": of_tokens(np.concatenate(ids).astype(np.int32, copy=False), _NUMBERS),
        "rollout_logprob": of_tokens(np.concatenate(rollout), _NATS),
    }
    for name, values in zip(TOKEN_FIGURES, figures_FT, strict=True):
        columns[name] = of_tokens(values, _NATS)
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


@dataclass(frozen=True, order=True)
class TrainedFile:
    """A file of the folder, by its name."""

    life: int  # of the learner, from 1
    rank: int
    path: Path

    @classmethod
    def named(cls, folder: Path, life: int, rank: int) -> Self:
        return cls(life, rank, folder / f"life-{life:04d}-rank-{rank:03d}.arrow")


def trained_files(folder: Path) -> list[TrainedFile]:
    """All files of RUN/trained by life and rank; none where there is no folder."""
    matches = ((_FILE.fullmatch(path.name), path) for path in folder.glob("life-*.arrow"))
    return sorted(TrainedFile(int(m[1]), int(m[2]), path) for m, path in matches if m)


class TrainedStream:
    """A file as far as it is written and whole, by memory map: reading a batch copies no token.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such stream, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        try:
            self._schema = pa.ipc.open_stream(self._map).schema
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} holds no stream of trajectories: {error}") from error
        metadata = self._schema.metadata or {}
        if metadata.get(b"format") != FORMAT or not self._schema.equals(SCHEMA):
            raise ValueError(f"{path}: trajectories of another format. Fix: read it with its code")
        self.from_step = int(metadata[b"from_step"])  # that this life went on from
        self.start = self._map.tell()  # of the first batch

    def batches(self, offset: int | None = None) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """Whole batches from `offset` on, each with where it starts and ends in the file.

        Args:
            offset: where a batch starts. None means the first.
        """
        at = self.start if offset is None else offset
        while (found := self._read(at)) is not None:
            end, batch = found
            yield at, end, batch
            at = end

    def batch(self, offset: int) -> pa.RecordBatch:
        """The batch that starts there. Raises ValueError where no whole one does."""
        found = self._read(offset)
        if found is None:
            raise ValueError(f"no whole batch at {offset}")
        return found[1]

    def _read(self, offset: int) -> tuple[int, pa.RecordBatch] | None:
        if offset >= self._map.size():
            return None
        self._map.seek(offset)
        try:
            message = pa.ipc.read_message(self._map)
            batch = pa.ipc.read_record_batch(message, self._schema)
            batch.validate(full=True)  # damaged bounds of a row would be followed anywhere
        except (EOFError, OSError, pa.ArrowException):  # torn, being written, or damaged
            return None
        return (self._map.tell(), batch) if _is_aligned(batch) else None

    def close(self) -> None:
        self._map.close()


def _is_aligned(batch: pa.RecordBatch) -> bool:
    """Whether each row has as many figures of every kind as it has tokens."""
    bounds = batch.column("token_ids").offsets
    figures = (batch.column(name) for name in ("rollout_logprob", *TOKEN_FIGURES))
    return all(column.offsets.equals(bounds) for column in figures)


def schema_of_life(from_step: int) -> pa.Schema:
    """The schema of the file of a life that goes on from a step."""
    return SCHEMA.with_metadata({b"format": FORMAT, b"from_step": str(from_step).encode()})
