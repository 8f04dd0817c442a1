"""A group as bytes: one Arrow record batch, the same on the wire, in segments and in the learner.

    head     Arrow's description of the batch: always as long, and of one layout
    body     16 columns, a row a trajectory, each part padded to 8 bytes

`encode` is called once, where a group is made; from then on its bytes are handed on as they are.
`read` gives arrays that look into them. The schema is not among them: both sides know it, and a
segment begins with it, so that any Arrow reader opens the file.

What comes from a stranger is checked before it is used. Arrow's own reader would follow whatever
the head describes (compressed bodies that grow, dictionaries, offsets out of bounds). Here the
batch has one layout, which a few sizes determine: `read` takes the sizes, writes the head that
`encode` would have written for them, and refuses any other. So it is with what all rows share.
"""

import functools
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from common.errors import ProtocolError
from common.group import Group, Responses
from common.types import FinishReason, Identifier, LongCount, PositiveCount, Record, ShownView

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "vision-opd trajectories 2"
MAX_TRAJECTORIES = 4096
_INT32, _INT64, _FLOAT32, _STRING, _TOKENS, _LOGPROBS = range(6)
_COLUMNS = (
    ("group_id", _STRING),
    ("attempt", _INT64),
    ("sample_id", _STRING),
    ("view", _STRING),
    ("view_seed", _INT32),
    ("view_note", _STRING),
    ("view_sha256", _STRING),
    ("index", _INT32),
    ("prompt_token_ids", _TOKENS),
    ("num_prompt_tokens", _INT32),
    ("response_token_ids", _TOKENS),
    ("rollout_logprobs", _LOGPROBS),
    ("span_versions", _TOKENS),
    ("span_ends", _TOKENS),
    ("cache_version", _INT32),
    ("finish_reason", _STRING),
)
_NUM_SHARED = 16  # parts of the first ten columns: all but the index follows from the group
_PADDING = bytes(8)


class _Shared(Record):
    """What all rows of a batch have in common, besides the prompt's token ids."""

    group_id: Identifier
    attempt: LongCount
    sample_id: Identifier
    view: ShownView
    num_prompt_tokens: PositiveCount


class _Template(NamedTuple):
    """A head with the places of all that differs between two batches, in words of 8 bytes."""

    words: np.ndarray  # int64
    num_rows: int  # word
    body_size: int  # word
    node_lengths: slice  # of columns and of the values of lists, in order
    buffer_offsets: slice
    buffer_sizes: slice
    values_of_nodes: np.ndarray  # int [nodes]: the part of a list's values, -1 for a column
    part_of_buffers: np.ndarray  # int [buffers]: of a validity bitmap, the part behind it
    is_part: np.ndarray  # int64 [buffers]: 0 for validity bitmaps, which have no bytes
    part_words: np.ndarray  # int [parts]: where the parts' sizes stand


@functools.cache
def schema() -> "pa.Schema":
    """Arrow's schema of the batches."""
    import pyarrow as pa

    types = {
        _INT32: pa.int32(),
        _INT64: pa.int64(),
        _STRING: pa.string(),
        _TOKENS: pa.list_(pa.int32()),
        _LOGPROBS: pa.list_(pa.float32()),
    }
    fields = [pa.field(name, types[kind], nullable=False) for name, kind in _COLUMNS]
    return pa.schema(fields, metadata={"format": FORMAT})


def encode(group: Group) -> bytes:
    """The batch of a group, which must be consistent (`Responses.check`)."""
    responses = group.responses
    reasons = [str(reason).encode() for reason in responses.finish_reasons]
    parts: list[Any] = [
        *_shared_parts(
            len(responses),
            group.group_id,
            group.attempt,
            group.sample_id,
            group.view,
            responses.indices,
            group.prompt_token_ids,
            group.num_prompt_tokens,
        ),
        responses.offsets, responses.token_ids,
        responses.offsets, responses.logprobs,
        responses.span_offsets, responses.span_versions,
        responses.span_offsets, responses.span_ends,
        responses.cache_versions,
        np.array([0, *accumulate(map(len, reasons))], np.int32), b"".join(reasons),
    ]  # fmt: skip
    sizes = [memoryview(part).nbytes for part in parts]
    head, _ = _head(len(responses), sizes)
    return b"".join([head, *_padded(parts, sizes)])


def read(content: bytes) -> Group:
    """The group in a batch; its arrays are views of `content`.

    Raises:
        ProtocolError: not what `encode` makes of a consistent group.
    """
    try:
        return _read(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"Group.{where}: {first['msg']}") from error
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"Group: {error}") from error


def _read(content: bytes) -> Group:
    num_rows, sizes, starts = _layout_of(content)
    view = _Parts(content, sizes, starts)
    names = {
        "group_id": view.text(0, num_rows),
        "attempt": view.number(2, 8),
        "sample_id": view.text(3, num_rows),
        "view": {
            "name": view.text(5, num_rows),
            "seed": view.number(7, 4),
            "note": view.text(8, num_rows),
            "sha256": view.text(10, num_rows),
        },
        "num_prompt_tokens": view.number(15, 4),
    }
    shared = _Shared.model_validate(names)
    indices = view.array(12, np.int32)
    prompt = view.array(14, np.int32)[: sizes[14] // 4 // num_rows]
    expected = _shared_parts(
        num_rows,
        shared.group_id,
        shared.attempt,
        shared.sample_id,
        shared.view,
        indices,
        prompt,
        shared.num_prompt_tokens,
    )
    shared_sizes = [memoryview(part).nbytes for part in expected]
    written = b"".join(_padded(expected, shared_sizes))
    if shared_sizes != sizes[:_NUM_SHARED] or not content.startswith(written, starts[0]):
        raise ValueError("its rows are not of one group")
    return Group(
        shared.group_id,
        shared.attempt,
        shared.sample_id,
        shared.view,
        prompt,
        shared.num_prompt_tokens,
        _responses(view, num_rows, indices),
    )


class _Parts:
    """The parts of a batch's body, by number."""

    def __init__(self, content: bytes, sizes: Sequence[int], starts: Sequence[int]) -> None:
        self._content = content
        self._sizes = sizes
        self._starts = starts

    def bytes(self, part: int) -> bytes:
        start = self._starts[part]
        return self._content[start : start + self._sizes[part]]

    def text(self, part: int, num_rows: int) -> str:
        """Of the first row, where all are the same; `part` is that of the offsets."""
        start, size = self._starts[part + 1], self._sizes[part + 1] // num_rows
        return self._content[start : start + size].decode()

    def number(self, part: int, size: int) -> int:
        """Of the first row."""
        start = self._starts[part]
        return int.from_bytes(self._content[start : start + size], "little", signed=True)

    def array(self, part: int, dtype: type[np.generic]) -> np.ndarray:
        start, count = self._starts[part], self._sizes[part] // 4
        found: np.ndarray = np.frombuffer(self._content, dtype, count, start)
        return found


def _responses(view: _Parts, num_rows: int, indices: np.ndarray) -> Responses:
    """The columns of the rows' own values. Raises ValueError."""
    offsets, span_offsets = view.bytes(16), view.bytes(20)
    if view.bytes(18) != offsets or view.bytes(22) != span_offsets:
        raise ValueError("log-probs or spans have other lengths than what they belong to")
    responses = Responses(
        indices,
        np.frombuffer(offsets, np.int32),
        view.array(17, np.int32),
        view.array(19, np.float32),
        np.frombuffer(span_offsets, np.int32),
        view.array(21, np.int32),
        view.array(23, np.int32),
        view.array(24, np.int32),
        _reasons(view.array(25, np.int32).tolist(), view.bytes(26).decode()),
    )
    columns = (
        (responses.offsets, responses.token_ids, responses.logprobs),
        (responses.span_offsets, responses.span_versions, responses.span_ends),
    )
    for rows, *values in columns:
        if len(rows) != num_rows + 1 or rows[0] != 0 or any(len(v) != rows[-1] for v in values):
            raise ValueError("a column's offsets do not fit its values")
    of_rows = (indices, responses.cache_versions, responses.finish_reasons)
    if any(len(column) != num_rows for column in of_rows):
        raise ValueError("columns of different lengths")
    responses.check()
    return responses


def _reasons(offsets: list[int], text: str) -> tuple[FinishReason, ...]:
    reasons = tuple(FinishReason(text[start:end]) for start, end in pairwise(offsets))
    if offsets != [0, *accumulate(map(len, reasons))]:
        raise ValueError("finish reasons do not fit their offsets")
    return reasons


# ---- layout --------------------------------------------------------------------------------------
def _shared_parts(
    num_rows: int,
    group_id: str,
    attempt: int,
    sample_id: str,
    view: ShownView,
    indices: np.ndarray,
    prompt_token_ids: np.ndarray,
    num_prompt_tokens: int,
) -> list[Any]:
    """Offsets and values of the first ten columns."""
    n = num_rows
    return [
        *_repeated(n, group_id),
        attempt.to_bytes(8, "little", signed=True) * n,
        *_repeated(n, sample_id),
        *_repeated(n, view.name),
        view.seed.to_bytes(4, "little", signed=True) * n,
        *_repeated(n, view.note),
        *_repeated(n, view.sha256),
        indices,
        _ruler(n, len(prompt_token_ids)),
        prompt_token_ids.tobytes() * n,
        num_prompt_tokens.to_bytes(4, "little", signed=True) * n,
    ]


def _repeated(num_rows: int, text: str) -> tuple[bytes, bytes]:
    value = text.encode()
    return _ruler(num_rows, len(value)), value * num_rows


@functools.lru_cache(256)
def _ruler(num_rows: int, size: int) -> bytes:
    """Offsets of rows that are all as long."""
    return (np.arange(num_rows + 1, dtype=np.int32) * np.int32(size)).tobytes()


def _padded(parts: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """The parts with what Arrow puts between them."""
    padded: list[Any] = []
    for part, size in zip(parts, sizes, strict=True):
        padded.append(part)
        if size % 8:
            padded.append(_PADDING[size % 8 :])
    return padded


def _layout_of(content: bytes) -> tuple[int, list[int], list[int]]:
    """Rows, and sizes and starts of the body's parts. Raises ValueError: of another layout."""
    template = _template()
    head_size = template.words.nbytes
    if len(content) < head_size:
        raise ValueError(f"{len(content)} bytes are no record batch")
    words = np.frombuffer(content, np.int64, len(template.words))
    num_rows = int(words[template.num_rows])
    sizes = words[template.part_words].tolist()
    if not 0 < num_rows <= MAX_TRAJECTORIES or not 0 <= min(sizes) <= max(sizes) <= len(content):
        raise ValueError("not a record batch of this project")
    head, starts = _head(num_rows, sizes)
    is_whole = len(content) == head_size + words[template.body_size]
    if not content.startswith(head) or not is_whole or any(size % 4 for size in sizes[16:26]):
        raise ValueError("not a record batch of this project")
    return num_rows, sizes, starts


def _head(num_rows: int, sizes: Sequence[int]) -> tuple[bytes, list[int]]:
    """What describes a body of parts of these sizes, and where in the batch they start."""
    template = _template()
    ends = [0, *accumulate((size + 7) & ~7 for size in sizes)]
    offsets, lengths = np.array(ends), np.array(sizes)
    words = template.words.copy()
    words[template.num_rows] = num_rows
    words[template.body_size] = ends[-1]
    is_column = template.values_of_nodes < 0
    words[template.node_lengths] = np.where(
        is_column, num_rows, lengths[template.values_of_nodes] // 4
    )
    words[template.buffer_offsets] = offsets[template.part_of_buffers]
    words[template.buffer_sizes] = lengths[template.part_of_buffers] * template.is_part
    return words.tobytes(), [words.nbytes + end for end in ends[:-1]]


@functools.cache
def _template() -> _Template:
    """From what Arrow writes: https://arrow.apache.org/docs/format/Columnar.html, section IPC."""
    import pyarrow as pa

    examples = {_STRING: "", _TOKENS: [], _LOGPROBS: []}
    row = {name: examples.get(kind, 0) for name, kind in _COLUMNS}
    example = pa.RecordBatch.from_pylist([row], schema()).serialize()
    head = example.to_pybytes()[: 8 + struct.unpack_from("<I", example, 4)[0]]
    root = 8 + struct.unpack_from("<I", head, 8)[0]
    header = _field(head, root, 2)
    header += struct.unpack_from("<I", head, header)[0]
    nodes, buffers = (_vector(head, _field(head, header, slot)) for slot in (1, 2))
    values: list[int] = []  # of nodes: the part of their values
    parts: list[tuple[int, int]] = []  # of buffers: a part, and whether it is this buffer
    part = 0
    for _, kind in _COLUMNS:
        values.append(-1)
        for is_part in {_STRING: (0, 1, 1), _TOKENS: (0, 1, 0, 1), _LOGPROBS: (0, 1, 0, 1)}.get(
            kind, (0, 1)
        ):
            parts.append((part, is_part))
            part += is_part
        if kind in (_TOKENS, _LOGPROBS):
            values.append(part - 1)
    assert len(head) % 8 == 0 and part == _NUM_SHARED + 11
    part_of, is_part_of = map(np.array, zip(*parts, strict=True))
    sizes = slice(buffers + 1, buffers + 2 * len(parts), 2)
    return _Template(
        words=np.frombuffer(head, np.int64).copy(),
        num_rows=_field(head, header, 0) // 8,
        body_size=_field(head, root, 3) // 8,
        node_lengths=slice(nodes, nodes + 2 * len(values), 2),
        buffer_offsets=slice(buffers, buffers + 2 * len(parts), 2),
        buffer_sizes=sizes,
        values_of_nodes=np.array(values),
        part_of_buffers=part_of,
        is_part=is_part_of,
        part_words=np.arange(sizes.start, sizes.stop, 2)[is_part_of == 1],
    )


def _field(flatbuffer: bytes, table: int, slot: int) -> int:
    """Where a field of a table lies."""
    vtable = table - struct.unpack_from("<i", flatbuffer, table)[0]
    offset: int = struct.unpack_from("<H", flatbuffer, vtable + 4 + 2 * slot)[0]
    return table + offset


def _vector(flatbuffer: bytes, field: int) -> int:
    """The first word of a vector of structs."""
    start: int = field + struct.unpack_from("<I", flatbuffer, field)[0] + 4
    return start // 8
