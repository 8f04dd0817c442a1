"""The bytes of a group: what Arrow makes of them, and what is made of bytes that are none."""

import re
import struct
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import group_batch
from common.errors import ProtocolError
from common.group import Group, Responses, Trajectory, VersionSpan
from common.group_batch import encode, read, schema
from common.types import FinishReason, ShownView

counts = st.integers(0, 2**31 - 1)
printable = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
names = st.text(printable, min_size=1, max_size=20)
views = st.builds(
    ShownView,
    name=names,
    seed=counts,
    note=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9),
    sha256=st.just("0" * 64),
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    length = draw(st.integers(1, 12))
    cut = draw(st.integers(1, length))
    spans = [VersionSpan(draw(counts), 0, cut)]
    if cut < length:
        spans.append(VersionSpan(draw(counts), cut, length))
    return Trajectory(
        index=draw(counts),
        response_token_ids=draw(hnp.arrays(np.int32, length)),
        rollout_logprobs=draw(
            hnp.arrays(np.float32, length, elements=st.floats(-100, 0, width=32))
        ),
        version_spans=tuple(spans),
        cache_version=draw(counts),
        finish_reason=draw(st.sampled_from(FinishReason)),
    )


groups = st.builds(
    Group,
    group_id=names,
    attempt=st.integers(0, 2**63 - 1),
    sample_id=names,
    view=views,
    prompt_token_ids=hnp.arrays(np.int32, st.integers(0, 8)),
    num_prompt_tokens=st.integers(1, 2**31 - 1),
    responses=st.lists(trajectories(), min_size=1, max_size=5).map(tuple).map(Responses.of),
)
GROUP = Group(
    "0/7",
    3,
    "sample",
    ShownView(name="full", seed=0, note="", sha256="a" * 64),
    np.arange(5, dtype=np.int32),
    99,
    Responses.of(
        tuple(
            Trajectory(
                index,
                np.arange(length, dtype=np.int32),
                np.full(length, -0.5, np.float32),
                (VersionSpan(4, 0, 1), VersionSpan(5, 1, length)),
                4,
                reason,
            )
            for index, (length, reason) in enumerate(
                [(3, FinishReason.STOP), (2, FinishReason.LENGTH)]
            )
        )
    ),
)


def as_arrow_writes_it(group: Group) -> bytes:
    """Built by pyarrow, column by column."""
    rows, n = group.trajectories, len(group.trajectories)
    shared = [group.group_id, group.attempt, group.sample_id]
    shared += [group.view.name, group.view.seed, group.view.note, group.view.sha256]
    columns = [
        *([value] * n for value in shared),
        [t.index for t in rows],
        [group.prompt_token_ids.tolist()] * n,
        [group.num_prompt_tokens] * n,
        [t.response_token_ids.tolist() for t in rows],
        [t.rollout_logprobs.tolist() for t in rows],
        [[s.version for s in t.version_spans] for t in rows],
        [[s.end for s in t.version_spans] for t in rows],
        [t.cache_version for t in rows],
        [str(t.finish_reason) for t in rows],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema(), strict=True)]
    message: bytes = pa.RecordBatch.from_arrays(arrays, schema=schema()).serialize().to_pybytes()
    return message


def plain(group: Group) -> Any:
    rows = [
        (t.response_token_ids.tolist(), t.rollout_logprobs.tolist(), t.index, t.version_spans,
         t.cache_version, t.finish_reason)
        for t in group.trajectories
    ]  # fmt: skip
    shared = (group.group_id, group.attempt, group.sample_id, group.view, group.num_prompt_tokens)
    return (*shared, group.prompt_token_ids.tolist(), rows)


@settings(max_examples=150, derandomize=True)
@given(groups)
def test_the_bytes_are_arrow_s_own_and_come_back(group: Group) -> None:
    content = encode(group)
    assert content == as_arrow_writes_it(group)
    back = read(content)
    assert plain(back) == plain(group) and encode(back) == content


def test_what_is_read_lies_where_it_came() -> None:
    content = encode(GROUP)
    back = read(content)
    for column in (back.responses.token_ids, back.responses.logprobs, back.prompt_token_ids):
        address = column.__array_interface__["data"][0]
        start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
        assert start < address < start + len(content) and address % 4 == 0
        assert not column.flags.writeable


def refused(content: bytes) -> str:
    with pytest.raises(ProtocolError) as error:
        read(content)
    assert len(str(error.value)) < 400
    return str(error.value)


@settings(max_examples=400, derandomize=True)
@given(groups, st.data())
def test_damaged_bytes_are_refused_or_another_group(group: Group, data: st.DataObject) -> None:
    content = bytearray(encode(group))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    try:
        back = read(bytes(content))
    except ProtocolError:
        return
    back.responses.check()
    pa.ipc.read_record_batch(pa.py_buffer(bytes(content)), schema()).validate(full=True)


@settings(max_examples=200, derandomize=True)
@given(groups, st.data())
def test_words_that_lie_about_sizes_are_refused_or_another_group(
    group: Group, data: st.DataObject
) -> None:
    content = bytearray(encode(group))
    word = 8 * data.draw(st.integers(0, len(content) // 8 - 1))
    lie = st.sampled_from([-1, 1, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1])
    struct.pack_into("<q", content, word, data.draw(lie | st.integers(-(2**63), 2**63 - 1)))
    try:
        back = read(bytes(content))
    except ProtocolError:
        return
    back.responses.check()


@settings(max_examples=100, derandomize=True)
@given(st.binary(max_size=3000))
def test_random_bytes_are_refused(content: bytes) -> None:
    refused(content)
    refused(encode(GROUP)[:1200] + content)


def test_a_batch_is_as_long_as_it_says() -> None:
    content = encode(GROUP)
    for other in (b"", content[:-8], content[:-1], content + bytes(8), content[:100], content * 2):
        assert "record batch" in refused(other)


def test_other_batches_of_arrow_are_refused() -> None:
    """Compressed, of another schema, with nulls, of no rows: its own reader takes them all."""
    batch = pa.ipc.read_record_batch(pa.py_buffer(encode(GROUP)), schema())
    for codec in ("lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema(), options=options) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue().to_pybytes()
        refused(stream[schema().serialize().size :])
    others = [
        batch.slice(0, 0),
        batch.select(batch.schema.names[:-1]),
        pa.record_batch({"group_id": ["0/7"]}),
    ]
    for other in others:
        refused(other.serialize().to_pybytes())
    refused(schema().serialize().to_pybytes())


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("group_id", ["0/7", "0/8"]),
        ("sample_id", ["sample", "simple"]),
        ("attempt", [3, 4]),
        ("view", ["full", "crop"]),
        ("view_seed", [0, 1]),
        ("view_note", ["", "x"]),
        ("view_sha256", ["a" * 64, "b" * 64]),
        ("num_prompt_tokens", [99, 98]),
        ("prompt_token_ids", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]]),
        ("prompt_token_ids", [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]),
    ],
)
def test_rows_of_different_groups_are_refused(column: str, values: list[Any]) -> None:
    batch = pa.ipc.read_record_batch(pa.py_buffer(encode(GROUP)), schema())
    field = schema().field(column)
    place = schema().get_field_index(column)
    mixed = batch.set_column(place, field, pa.array(values, field.type))
    mixed = pa.RecordBatch.from_arrays(mixed.columns, schema=schema())
    assert "not of one group" in refused(mixed.serialize().to_pybytes())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"group_id": ""}, "Group.group_id"),
        ({"group_id": "a\nb"}, "Group.group_id"),
        ({"group_id": "a" * 201}, "Group.group_id"),
        ({"attempt": -1}, "Group.attempt"),
        ({"sample_id": ""}, "Group.sample_id"),
        ({"num_prompt_tokens": 0}, "Group.num_prompt_tokens"),
        ({"view": GROUP.view.model_copy(update={"sha256": "x"})}, "Group.view.sha256"),
        ({"view": GROUP.view.model_copy(update={"seed": -1})}, "Group.view.seed"),
    ],
)
def test_names_and_numbers_are_bounded(change: dict[str, Any], reason: str) -> None:
    assert reason in refused(encode(replace(GROUP, **change)))


def with_columns(**columns: Any) -> bytes:
    return encode(replace(GROUP, responses=replace(GROUP.responses, **columns)))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"logprobs": np.array([-1, np.nan, 0, 0, 0], np.float32)}, "finite"),
        ({"logprobs": np.array([-1, np.inf, 0, 0, 0], np.float32)}, "finite"),
        ({"logprobs": np.zeros(4, np.float32)}, "offsets do not fit"),
        ({"offsets": [0, 5, 5]}, "empty response"),
        ({"offsets": [0, 7, 5]}, "offsets do not fit"),
        ({"offsets": [1, 3, 5]}, "offsets do not fit"),
        ({"offsets": [0, 3, 6]}, "offsets do not fit"),
        ({"offsets": [0, 2, 3, 5]}, "different lengths"),
        ({"offsets": []}, "different lengths"),
        ({"span_offsets": [0, 2, 2]}, "offsets do not fit"),
        ({"span_ends": [1, 3, 2, 2]}, "without gap"),
        ({"span_versions": [1, -3, 2, 2]}, "no int32 >= 0"),
        ({"cache_versions": [1]}, "columns of different lengths"),
        ({"indices": [0]}, "not of one group|different lengths"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, Any], reason: str) -> None:
    assert re.search(reason, refused(with_columns(**columns)))


@pytest.mark.parametrize("cuts", [(0, 4, 8), (0, 0, 10), (0, 10, 4), (0, 4, 11), (1, 4, 10)])
def test_finish_reasons_that_do_not_fit_are_refused(cuts: tuple[int, ...]) -> None:
    content = encode(GROUP)
    right = struct.pack("<3i", 0, 4, 10)
    assert content.count(right) == 1
    refused(content.replace(right, struct.pack("<3i", *cuts)))


def test_rows_are_bounded() -> None:
    one = GROUP.responses.rows()[0]
    many = replace(GROUP, responses=Responses.of((one,) * 4096))
    assert len(read(encode(many)).responses) == 4096
    refused(encode(replace(GROUP, responses=Responses.of((one,) * 4097))))
    assert all(a < b for a, b in pairwise(many.responses.offsets))


def test_a_head_that_only_agrees_with_itself_is_refused() -> None:
    """Its parts are too short for what is read from them."""
    head, _, _ = group_batch._head(1, [0] * 27)
    assert "different lengths" in refused(head)


def test_spans_are_bounded_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_batch, "MAX_SPANS", 2)
    assert "spans of versions, more than 2" in refused(encode(GROUP))
