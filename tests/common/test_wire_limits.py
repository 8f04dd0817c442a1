"""What frames may make of themselves in memory, and what of it is measured."""

import tracemalloc

import msgpack
import numpy as np
import pytest
from pydantic import BaseModel

from broker import protocol as p
from common.errors import ProtocolError
from common.wire import Limits, decode, encode, kind_of

MIB = 2**20
# Groups and answers, and what the learner says, of whose key the door has made sure.
LARGE = {"SubmitGroups", "SubmitAnswers", "AckBatch", "AnnounceWeights", "OrderMeasurement"}


def frame(kind: str, **fields: object) -> bytes:
    packed: bytes = msgpack.packb({"type": kind, **fields})
    return packed


def refused(content: bytes) -> str:
    with pytest.raises(ProtocolError) as error:
        decode(content, p.REQUESTS, limits=p.LIMITS)
    return str(error.value)


@pytest.mark.parametrize("kind", p.REQUESTS)
def test_every_kind_that_clients_send_has_limits(kind: str) -> None:
    assert isinstance(p.LIMITS[kind], Limits)


@pytest.mark.parametrize("kind", sorted(set(p.REQUESTS) - LARGE))
def test_most_kinds_are_small(kind: str) -> None:
    assert "over the limit of 65536" in refused(frame(kind, x=b"\0" * 65536))


def test_the_kind_is_known_before_anything_else_is_read() -> None:
    assert kind_of(encode(p.GetStatus()) + b"\xc1" * 99) == "GetStatus"
    many = frame("Status", **{f"field{number}": 1 for number in range(20)})
    assert many[:1] == b"\xde" and kind_of(many) == "Status"
    for content in (b"", b"\x81", b"\x81\xa4type", b"\x81\xa4type\xa9Get", frame("a" * 40)):
        with pytest.raises(ProtocolError, match="begins with its type"):
            kind_of(content)
    with pytest.raises(ProtocolError, match="begins with its type"):
        kind_of(msgpack.packb({"finished": True, "type": "Done"}))


# What a frame of 4 MiB was made of, and the most that reading it may take. The frame itself is not
# counted; its text, where it is one, is copied once.
FLOODS = {
    "maps": (lambda n: [{}] * n, 40),
    "arrays": (lambda n: [[]] * n, 40),
    "nils": (lambda n: [None] * n, 40),
    "numbers": (lambda n: [2**40] * (n // 9), 40),
    "texts": (lambda n: ["x"] * (n // 2), 40),
    "keys": (lambda n: {str(number): None for number in range(n // 8)}, 40),
    "maps in arrays of 4,000": (lambda n: [[{}] * 4000] * (n // 4000), 40),
}


@pytest.mark.parametrize("kind", ["SubmitGroups", "SubmitAnswers", "Heartbeat", "AckBatch"])
@pytest.mark.parametrize("name", FLOODS)
def test_memory_stays_near_the_frame_s_own_size(kind: str, name: str) -> None:
    make, allowed_mib = FLOODS[name]
    content = frame(kind, x=make(4 * MIB))
    tracemalloc.start()
    try:
        refused(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < allowed_mib * MIB, f"{peak / MIB:.0f} MiB"


def test_an_array_that_only_says_it_is_long_costs_nothing() -> None:
    """MessagePack makes room for as many places as are announced, at each level anew."""
    announced = b"\xdd" + (1000).to_bytes(4)
    start = frame("SubmitAnswers", x=0)[:-1]
    tracemalloc.start()
    try:
        refused(start + announced * 1600 + b"\xc0" * 5000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB
    assert "exceeds max_array_len" in refused(start + b"\xdd" + (2000).to_bytes(4) + b"\xc0" * 9000)


def test_an_array_of_numbers_is_read_where_it_lies() -> None:
    """Also one whose content would be unpacked into many objects if it were looked at."""

    class Holder(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        x: np.ndarray

    content = encode(Holder(x=np.zeros(MIB, np.int32)))
    tracemalloc.start()
    try:
        back = decode(content, {"Holder": Holder})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert back.x.shape == (MIB,) and peak < 5 * MIB  # type: ignore[attr-defined]
    tree = msgpack.packb(["int32", [[[1, 2], [3, 4]], 1], b""])
    assert "malformed array" in refused(frame("SubmitAnswers", x=msgpack.ExtType(1, tree)))
