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
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import ValidationError

from common.errors import ProtocolError
from common.group import Group, Responses
from common.types import FinishReason, Identifier, LongCount, PositiveCount, Record, ShownView

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "vision-opd trajectories 2"
MAX_TRAJECTORIES = 4096
MAX_SPANS = 2**19  # of versions, in a group
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
_NUM_PARTS = 27  # of a body
_NUM_SHARED = 16  # parts of the first ten columns: all but the index follows from the group
_NUMBERS = {2: 8, 7: 4, 12: 4, 15: 4, 24: 4}  # parts with a number a row; its bytes
_OFFSETS = (0, 3, 5, 8, 10, 13, 16, 18, 20, 22, 25)  # parts with one more than rows
_of_rows = itemgetter(*_OFFSETS, *_NUMBERS)
_of_tokens = itemgetter(17, 19, 21, 23)
_PADDING = bytes(8)
_REASONS = {reason.value.encode(): reason for reason in FinishReason}
_INT32_OF, _INT64_OF = struct.Struct("<i"), struct.Struct("<q")


class _Shared(Record):
    """What all rows of a batch have in common, besides the prompt's token ids."""

    group_id: Identifier
    attempt: LongCount
    sample_id: Identifier
    view: ShownView
    num_prompt_tokens: PositiveCount


class _Template(NamedTuple):
    """A head in words of 8 bytes, and what differs between two heads."""

    packing: struct.Struct  # of all words
    example: tuple[int, ...]  # the words of one head
    words: Callable[[Sequence[int]], tuple[int, ...]]  # from the numbers of a head, then an example
    num_rows: int  # the place of this word
    sizes: Callable[[Sequence[int]], tuple[int, ...]]  # of the parts, from the words


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
    reasons = [reason.value.encode() for reason in responses.finish_reasons]
    offsets, span_offsets = _packed(responses.offsets), _packed(responses.span_offsets)
    parts = [
        *_shared_parts(group, _packed(responses.indices)),
        offsets, responses.token_ids.tobytes(),
        offsets, responses.logprobs.tobytes(),
        span_offsets, _packed(responses.span_versions),
        span_offsets, _packed(responses.span_ends),
        _packed(responses.cache_versions),
        _packed([0, *accumulate(map(len, reasons))]), b"".join(reasons),
    ]  # fmt: skip
    head, _, _ = _head(len(responses), list(map(len, parts)))
    return b"".join([head, *_padded(parts)])


def read(content: bytes) -> Group:
    """The group in a batch of a stranger; its arrays are views of `content`.

    Raises:
        ProtocolError: not what `encode` makes of a consistent group.
    """
    try:
        num_rows, sizes, starts = _layout_of(content)
        group = _unpacked(content, num_rows, sizes, starts)
        _check(group, content, sizes, starts)
        return group
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"Group.{where}: {first['msg']}") from error
    except KeyError as error:
        raise ProtocolError(f"Group: no finish reason {str(error)[:40]}") from error
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"Group: {error}") from error


def read_again(content: bytes) -> Group:
    """The group in a batch that the broker has read before, without another check."""
    num_rows, sizes = _sizes_of(content)
    return _unpacked(content, num_rows, sizes, _starts_of(sizes))


def _unpacked(content: bytes, num_rows: int, sizes: list[int], starts: list[int]) -> Group:
    def ints(number: int) -> list[int]:
        return list(struct.unpack_from(f"<{sizes[number] // 4}i", content, starts[number]))

    def text(number: int) -> str:  # of the first row
        start = starts[number]
        return content[start : start + sizes[number] // num_rows].decode()

    shared = _Shared.model_validate(
        {
            "group_id": text(1),
            "attempt": _INT64_OF.unpack_from(content, starts[2])[0],
            "sample_id": text(4),
            "view": {
                "name": text(6),
                "seed": _INT32_OF.unpack_from(content, starts[7])[0],
                "note": text(9),
                "sha256": text(11),
            },
            "num_prompt_tokens": _INT32_OF.unpack_from(content, starts[15])[0],
        }
    )
    return Group(
        shared.group_id,
        shared.attempt,
        shared.sample_id,
        shared.view,
        np.frombuffer(content, np.int32, sizes[14] // 4 // num_rows, starts[14]),
        shared.num_prompt_tokens,
        Responses(
            indices=ints(12),
            offsets=ints(16),
            token_ids=np.frombuffer(content, np.int32, sizes[17] // 4, starts[17]),
            logprobs=np.frombuffer(content, np.float32, sizes[19] // 4, starts[19]),
            span_offsets=ints(20),
            span_versions=ints(21),
            span_ends=ints(23),
            cache_versions=ints(24),
            finish_reasons=_reasons(ints(25), content[starts[26] : starts[26] + sizes[26]]),
        ),
    )


def _reasons(offsets: list[int], text: bytes) -> list[FinishReason]:
    return [_REASONS[text[start:end]] for start, end in pairwise(offsets)]


def _check(group: Group, content: bytes, sizes: list[int], starts: list[int]) -> None:
    """Refuse a batch in which anything is not as `encode` would have it. Raises ValueError."""

    def part(number: int) -> bytes:
        return content[starts[number] : starts[number] + sizes[number]]

    if part(18) != part(16) or part(22) != part(20):
        raise ValueError("log-probs or spans have other lengths than what they belong to")
    responses = group.responses
    responses.check()
    if part(25) != _packed([0, *accumulate(map(len, responses.finish_reasons))]):
        raise ValueError("finish reasons do not fit their offsets")
    parts = _shared_parts(group, part(12))
    if list(map(len, parts)) != sizes[:_NUM_SHARED]:
        raise ValueError("its rows are not of one group")
    if not content.startswith(b"".join(_padded(parts)), starts[0]):
        raise ValueError("its rows are not of one group")


# ---- layout --------------------------------------------------------------------------------------
def _shared_parts(group: Group, indices: bytes) -> list[bytes]:
    """Offsets and values of the first ten columns."""
    n, view, prompt = len(group.responses), group.view, group.prompt_token_ids
    return [
        *_repeated(n, group.group_id),
        _INT64_OF.pack(group.attempt) * n,
        *_repeated(n, group.sample_id),
        *_repeated(n, view.name),
        _INT32_OF.pack(view.seed) * n,
        *_repeated(n, view.note),
        *_repeated(n, view.sha256),
        indices,
        _ruler(n, len(prompt)),
        prompt.tobytes() * n,
        _INT32_OF.pack(group.num_prompt_tokens) * n,
    ]


def _repeated(num_rows: int, text: str) -> tuple[bytes, bytes]:
    value = text.encode()
    return _ruler(num_rows, len(value)), value * num_rows


@functools.lru_cache(256)
def _ruler(num_rows: int, size: int) -> bytes:
    """Offsets of rows that are all as long."""
    return _packed([row * size for row in range(num_rows + 1)])


def _packed(numbers: Sequence[int]) -> bytes:
    """Pack numbers as int32. Raises ValueError: one does not fit."""
    try:
        return struct.pack(f"<{len(numbers)}i", *numbers)
    except struct.error as error:
        raise ValueError(f"a number is not an int32: {error}") from error


def _padded(parts: Sequence[bytes]) -> list[bytes]:
    """The parts with what Arrow puts between them."""
    padded: list[bytes] = []
    for part in parts:
        padded.append(part)
        if len(part) % 8:
            padded.append(_PADDING[len(part) % 8 :])
    return padded


def _layout_of(content: bytes) -> tuple[int, list[int], list[int]]:
    """Rows, and sizes and starts of the body's parts. Raises ValueError: of another layout."""
    if len(content) < _template().packing.size:
        raise ValueError(f"{len(content)} bytes are no record batch")
    num_rows, sizes = _sizes_of(content)
    if not 0 < num_rows <= MAX_TRAJECTORIES or not 0 <= min(sizes) <= max(sizes) <= len(content):
        raise ValueError("not a record batch of this project")
    head, starts, end = _head(num_rows, sizes)
    if len(content) != end or not content.startswith(head):
        raise ValueError("not a record batch of this project")
    _check_sizes(num_rows, sizes)
    return num_rows, sizes, starts


def _sizes_of(content: bytes) -> tuple[int, list[int]]:
    """Rows and sizes of the body's parts, as the head says."""
    template = _template()
    words = template.packing.unpack_from(content)
    return words[template.num_rows], list(template.sizes(words))


def _check_sizes(num_rows: int, sizes: Sequence[int]) -> None:
    """Refuse parts that hold other numbers than rows need, or too many.

    This comes before they are unpacked: a number of 4 bytes becomes an object of 28.
    """
    tokens, logprobs, versions, ends = _of_tokens(sizes)
    are_alike = (tokens, versions) == (logprobs, ends) and (tokens | versions) % 4 == 0
    if _of_rows(sizes) != _expected_of_rows(num_rows) or not are_alike:
        raise ValueError("offsets do not fit: columns of different lengths")
    if versions > 4 * MAX_SPANS:
        raise ValueError(f"{versions // 4} spans of versions, more than {MAX_SPANS}")


@functools.lru_cache(16)
def _expected_of_rows(num_rows: int) -> tuple[int, ...]:
    """Sizes of the parts that only the number of rows determines."""
    offsets = [4 * (num_rows + 1)] * len(_OFFSETS)
    return (*offsets, *(width * num_rows for width in _NUMBERS.values()))


def _head(num_rows: int, sizes: Sequence[int]) -> tuple[bytes, list[int], int]:
    """What describes a body of parts of these sizes; where they start and end in the batch."""
    template = _template()
    starts = _starts_of(sizes)
    numbers = (num_rows, *[start - starts[0] for start in starts], *sizes, *[n // 4 for n in sizes])
    head = template.packing.pack(*template.words((*numbers, *template.example)))
    end = starts.pop()
    return head, starts, end


def _starts_of(sizes: Sequence[int]) -> list[int]:
    """Where parts of these sizes start in the batch, and where the last one ends."""
    return [*accumulate([(size + 7) & ~7 for size in sizes], initial=_template().packing.size)]


@functools.cache
def _template() -> _Template:
    """From what Arrow writes: https://arrow.apache.org/docs/format/Columnar.html, section IPC."""
    import pyarrow as pa

    examples = {_STRING: "", _TOKENS: [], _LOGPROBS: []}
    row = {name: examples.get(kind, 0) for name, kind in _COLUMNS}
    example = pa.RecordBatch.from_pylist([row], schema()).serialize()
    head = example.to_pybytes()[: 8 + struct.unpack_from("<I", example, 4)[0]]
    root = 8 + struct.unpack_from("<I", head, 8)[0]
    batch = _field(head, root, 2)
    batch += struct.unpack_from("<I", head, batch)[0]
    num_rows = _field(head, batch, 0) // 8
    node, buffer = (_vector(head, _field(head, batch, slot)) for slot in (1, 2))

    of_rows, of_offset = 0, 1  # places in the numbers of `_head`
    of_size = of_offset + _NUM_PARTS + 1
    of_length = of_size + _NUM_PARTS
    sources = list(range(of_length + _NUM_PARTS, of_length + _NUM_PARTS + len(head) // 8))
    sources[num_rows] = of_rows
    sources[_field(head, root, 3) // 8] = of_offset + _NUM_PARTS  # the body's size
    size_words = []
    part = 0
    for _, kind in _COLUMNS:
        is_list = kind in (_TOKENS, _LOGPROBS)
        sources[node] = of_rows
        node += 2  # a length and a number of nulls
        if is_list:
            sources[node] = of_length + part + 1
            node += 2
        # A bitmap of nulls is empty, and lies where the next part begins.
        for is_part in (0, 1, 0, 1) if is_list else (0, 1, 1) if kind == _STRING else (0, 1):
            sources[buffer] = of_offset + part
            if is_part:
                sources[buffer + 1] = of_size + part
                size_words.append(buffer + 1)
            buffer += 2
            part += is_part
    packing = struct.Struct(f"<{len(head) // 8}q")
    words = packing.unpack(head)
    return _Template(packing, words, itemgetter(*sources), num_rows, itemgetter(*size_words))


def _field(flatbuffer: bytes, table: int, slot: int) -> int:
    """Where a field of a table lies."""
    vtable = table - struct.unpack_from("<i", flatbuffer, table)[0]
    offset: int = struct.unpack_from("<H", flatbuffer, vtable + 4 + 2 * slot)[0]
    return table + offset


def _vector(flatbuffer: bytes, field: int) -> int:
    """The first word of a vector of structs."""
    start: int = field + struct.unpack_from("<I", flatbuffer, field)[0] + 4
    return start // 8
