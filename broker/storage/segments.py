"""Trajectories on disk: Arrow IPC streams that any Arrow reader opens, one record batch a group.

A segment is a schema message and then one message a group; it need not be closed to be read. Where
a group lies, and the checksum of its bytes, is in the journal. Rows are trajectories.
"""

import zlib
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from broker.storage.store import Damaged
from common.types import FinishReason, Group, Sample, ShownView, Trajectory, VersionSpan

SCHEMA = pa.schema(
    [
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("view_seed", pa.int32(), nullable=False),
        pa.field("view_note", pa.string(), nullable=False),
        pa.field("view_sha256", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("num_prompt_tokens", pa.int32(), nullable=False),
        pa.field("response_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("rollout_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("span_versions", pa.list_(pa.int32()), nullable=False),
        pa.field("span_ends", pa.list_(pa.int32()), nullable=False),
        pa.field("cache_version", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
    ],
    metadata={"format": "vision-opd trajectories 2"},
)
_SCHEMA_MESSAGE: bytes = SCHEMA.serialize().to_pybytes()


class Place(NamedTuple):
    """Where a group lies."""

    segment: str
    offset: int
    length: int
    checksum: int  # CRC-32 of those bytes

    def holds(self, content: bytes) -> bool:
        """Whether these are the bytes that were written there."""
        return len(content) == self.length and zlib.crc32(content) == self.checksum


def segment_name(number: int) -> str:
    return f"segment-{number:06d}.arrow"


def segment_head() -> bytes:
    """The first bytes of every segment."""
    return _SCHEMA_MESSAGE


def encode_group(group: Group) -> bytes:
    """One Arrow message."""
    found = group.trajectories
    count = len(found)
    columns = [
        pa.array([group.group_id] * count, pa.string()),
        pa.array([group.attempt] * count, pa.int64()),
        pa.array([group.sample.sample_id] * count, pa.string()),
        pa.array([group.view.name] * count, pa.string()),
        pa.array([group.view.seed] * count, pa.int32()),
        pa.array([group.view.note] * count, pa.string()),
        pa.array([group.view.sha256] * count, pa.string()),
        pa.array([t.index for t in found], pa.int32()),
        _lists([group.prompt_token_ids] * count, np.int32),
        pa.array([group.num_prompt_tokens] * count, pa.int32()),
        _lists([t.response_token_ids for t in found], np.int32),
        _lists([t.rollout_logprobs for t in found], np.float32),
        _lists([np.array([s.version for s in t.version_spans], np.int32) for t in found], np.int32),
        _lists([np.array([s.end for s in t.version_spans], np.int32) for t in found], np.int32),
        pa.array([t.cache_version for t in found], pa.int32()),
        pa.array([t.finish_reason.value for t in found], pa.string()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    message: bytes = batch.serialize().to_pybytes()
    return message


def decode_group(content: bytes, place: Place, sample: Sample) -> Group:
    """The group in an Arrow message.

    Raises:
        Damaged: these are not the bytes that were written.
    """
    if not place.holds(content):
        raise Damaged(f"{place.segment}, bytes {place.offset} to {place.offset + place.length}")
    batch = pa.ipc.read_record_batch(pa.py_buffer(content), SCHEMA)
    column = {name: batch.column(name) for name in SCHEMA.names}
    responses, logprobs = _rows(column["response_token_ids"]), _rows(column["rollout_logprobs"])
    versions, ends = _rows(column["span_versions"]), _rows(column["span_ends"])
    trajectories = tuple(
        Trajectory(
            index=index,
            response_token_ids=responses[row],
            rollout_logprobs=logprobs[row],
            version_spans=_spans(versions[row], ends[row]),
            cache_version=cache_version,
            finish_reason=FinishReason(reason),
        )
        for row, (index, cache_version, reason) in enumerate(
            zip(
                column["index"].to_pylist(),
                column["cache_version"].to_pylist(),
                column["finish_reason"].to_pylist(),
                strict=True,
            )
        )
    )
    return Group(
        group_id=column["group_id"][0].as_py(),
        attempt=column["attempt"][0].as_py(),
        sample=sample,
        view=ShownView(
            name=column["view"][0].as_py(),
            seed=column["view_seed"][0].as_py(),
            note=column["view_note"][0].as_py(),
            sha256=column["view_sha256"][0].as_py(),
        ),
        prompt_token_ids=_rows(column["prompt_token_ids"])[0],
        num_prompt_tokens=column["num_prompt_tokens"][0].as_py(),
        trajectories=trajectories,
    )


def _lists(rows: list[np.ndarray], dtype: type) -> pa.Array:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values: np.ndarray = np.concatenate(rows).astype(dtype, copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _rows(column: pa.ListArray) -> list[np.ndarray]:
    values: np.ndarray = column.values.to_numpy()
    return [values[start:end] for start, end in pairwise(column.offsets.to_numpy())]


def _spans(versions: np.ndarray, ends: np.ndarray) -> tuple[VersionSpan, ...]:
    starts = [0, *ends[:-1].tolist()]
    return tuple(
        VersionSpan(version=version, start=start, end=end)
        for version, start, end in zip(versions.tolist(), starts, ends.tolist(), strict=True)
    )
