"""Round trips of every message, and what hostile frames cost."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from broker import protocol as p
from common.errors import ProtocolError
from common.wire import MAX_DEPTH, decode, encode, encode_message
from tests.common.support import MESSAGES, texts

REGISTRY = {**p.REQUESTS, **p.REPLIES}


def plain(value: Any) -> Any:
    """Comparable form: arrays as (dtype, values)."""
    if isinstance(value, np.ndarray):
        return (value.dtype.name, value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


@pytest.mark.smoke
def test_every_message_has_a_round_trip_here() -> None:
    assert {message.__name__ for message in MESSAGES} == REGISTRY.keys()


@pytest.mark.smoke
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[BaseModel]) -> None:
    @settings(max_examples=12, derandomize=True)
    @given(MESSAGES[kind])
    def check(message: BaseModel) -> None:
        frame, *attached = encode_message(message)
        assert b"".join(attached) == b"".join(getattr(message, getattr(kind, "attached", ""), ()))
        for back in (decode(encode(message), REGISTRY), decode(frame, REGISTRY, *attached)):
            assert type(back) is type(message)
            assert plain(back.model_dump()) == plain(message.model_dump())

    check()


# ---- hostile frames ------------------------------------------------------------------------------
def frame(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def array(*parts: Any) -> bytes:
    content = msgpack.ExtType(1, msgpack.packb(list(parts)))
    return frame(type="Refused", code=content, message="")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = {
    "empty": b"",
    "not MessagePack": b"\xc1" * 9,
    "cut short": frame(type="Done", finished=True)[:-1],
    "trailing bytes": frame(type="Done", finished=True) + b"\x00",
    "not a map": msgpack.packb([1, 2]),
    "no type": frame(finished=True),
    "type is no text": frame(type=7),
    "type is a list": frame(type=[[]]),
    "unknown type": frame(type="Surprise" * 99),
    "type of a class": frame(type="BaseModel"),
    "unknown field": frame(type="Done", finished=True, extra=1),
    "wrong type of field": frame(type="Done", finished="yes"),
    "missing field": frame(type="Refused", code="x"),
    "key is a number": msgpack.packb({1: 2, "type": "Done"}),
    "key is bytes": msgpack.packb({b"finished": True, "type": "Done"}),
    "not UTF-8": b"\x81\xa4type\xa4\xff\xff\xff\xff",
    "too deep": frame(type="Refused", code=nested(MAX_DEPTH + 1), message=""),
    "very deep": b"\x81\xa1x" + b"\x91" * 2000 + b"\x01",
    "claims 4 GB of text": b"\x81\xa4type\xdb\xff\xff\xff\xff",
    "claims 4 billion items": b"\x81\xa4type\xdd\xff\xff\xff\xff",
    "unknown extension": frame(type="Refused", code=msgpack.ExtType(5, b""), message=""),
    "timestamp": frame(type="Refused", code=msgpack.Timestamp(1), message=""),
    "array of garbage": frame(type="Refused", code=msgpack.ExtType(1, b"\xc1"), message=""),
    "array of nothing": frame(type="Refused", code=msgpack.ExtType(1, b""), message=""),
    "array is no list": frame(type="Refused", code=msgpack.ExtType(1, b"\x01"), message=""),
    "array of objects": array("object", [1], b"\0" * 8),
    "array dtype is a list": array(["int32"], [1], b"\0" * 4),
    "array dtype is a map": array({"int32": 1}, [1], b"\0" * 4),
    "array too short": array("int32", [2], b"\0" * 4),
    "array of negative size": array("int32", [-1], b""),
    "array overflows": array("int32", [2**31 - 1] * 4, b"\0" * 4),
    "array of many axes": array("int32", [1] * 40, b"\0" * 4),
    "array without axes": array("int32", [], b"\0" * 4),
    "array shape is text": array("int32", "1", b"\0" * 4),
    "array content is text": array("int32", [1], "abcd"),
    "array where text belongs": array("int32", [1], b"\0" * 4),
}


@pytest.mark.smoke
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_frame_is_a_protocol_error(content: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(content, REGISTRY)
    assert len(str(refused.value)) < 400


def test_only_what_has_a_place_for_them_takes_further_frames() -> None:
    who = {"member_id": "a", "incarnation": 1}
    with pytest.raises(ProtocolError, match="Done is one frame, not two"):
        decode(encode(p.Done()), REGISTRY, b"more")
    with pytest.raises(ProtocolError, match=r"SubmitGroups\.groups"):
        decode(frame(type="SubmitGroups", **who), REGISTRY)
    lengths = (1,) * (p.MAX_TOGETHER + 1)
    with pytest.raises(ProtocolError, match=r"SubmitGroups\.groups"):
        many = frame(type="SubmitGroups", **who, groups=lengths)
        decode(many, REGISTRY, bytes(len(lengths)))


@pytest.mark.parametrize(
    "lengths", [None, 4, (), (3,), (5,), (2, 3), (5, -1), (True, 3), (4.0,), ("4",), (b"more",)]
)
def test_what_is_attached_is_as_long_as_its_lengths_say(lengths: Any) -> None:
    head = frame(type="SubmitGroups", member_id="a", incarnation=1, groups=lengths)
    with pytest.raises(ProtocolError, match="4 bytes are attached"):
        decode(head, REGISTRY, b"more")


def test_a_frame_over_the_limit_is_refused_unread() -> None:
    content = frame(type="Done", finished=True)
    assert decode(content, REGISTRY, max_bytes=len(content)) == p.Done(finished=True)
    with pytest.raises(ProtocolError, match="limit"):
        decode(content, REGISTRY, max_bytes=len(content) - 1)


def test_the_reason_names_the_field() -> None:
    with pytest.raises(ProtocolError, match=r"^Heartbeat\.gauges\.x: "):
        decode(frame(type="Heartbeat", member_id="a", incarnation=0, gauges={"x": "y"}), REGISTRY)


@settings(max_examples=300, derandomize=True)
@given(st.binary(max_size=60))
def test_random_bytes_are_a_protocol_error(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(content, REGISTRY)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts
values = st.recursive(
    scalars | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, derandomize=True)
@given(st.sampled_from(sorted(REGISTRY)), st.data())
def test_random_fields_give_a_message_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    fields = {
        key: data.draw(values) for key in REGISTRY[name].model_fields if data.draw(st.booleans())
    }
    content = frame(**{**fields, "type": name})
    try:
        message = decode(content, REGISTRY)
    except ProtocolError:
        return
    assert type(message) is REGISTRY[name]


@settings(max_examples=300, derandomize=True)
@given(st.data())
def test_a_flipped_byte_gives_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    content = bytearray(encode(data.draw(MESSAGES[p.SubmitAnswers])))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(content), REGISTRY)
    except ProtocolError:
        return


def test_other_dtypes_cannot_be_sent() -> None:
    class Holder(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        array: np.ndarray

    with pytest.raises(TypeError, match="cannot be sent"):
        encode(Holder(array=np.zeros(2, dtype=np.float64)))
