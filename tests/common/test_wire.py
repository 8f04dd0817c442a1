"""Round trips of every message, and what hostile frames cost."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from broker import protocol as p
from common.errors import ProtocolError
from common.types import (
    Box,
    GroupAddress,
    GroupLease,
    ImageRef,
    Sample,
    WeightBucket,
    WeightChecksums,
    WeightFiles,
    WeightProbe,
    WeightUpdate,
)
from common.wire import MAX_DEPTH, decode, encode, encode_message

REGISTRY = {**p.REQUESTS, **p.REPLIES}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
printable = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
names = st.text(printable, min_size=1, max_size=20)
paths = st.text(printable, min_size=1, max_size=20)
member_ids = st.from_regex(r"[A-Za-z0-9_./:@-]{1,20}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
counts = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 2**31 - 1)
long_counts = st.integers(0, 2**63 - 1)
places = st.integers(0, 2**30 - 1)  # in a picture
waits = st.floats(0, 60)
gauges = st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)
images = st.builds(ImageRef, sha256=digests, path=paths, width=sizes, height=sizes)
boxes = st.builds(
    lambda x, y, w, h: Box(x1=x, y1=y, x2=x + w, y2=y + h),
    places,
    places,
    places.map(lambda n: n + 1),
    places.map(lambda n: n + 1),
)
samples = st.builds(
    Sample,
    sample_id=names,
    problem=texts,
    image=images,
    box=st.none() | boxes,
    crop=st.none() | images,
)


leases = st.builds(
    GroupLease,
    group_id=names,
    attempt=counts,
    sample=samples,
    num_trajectories=sizes,
    sampling_seed=st.integers(0, 2**31 - 1),
    lease_s=st.floats(0.1, 1e6),
)
buckets = st.builds(
    WeightBucket,
    names=st.lists(names, max_size=3).map(tuple),
    dtypes=st.lists(names, max_size=3).map(tuple),
    shapes=st.lists(st.lists(sizes, max_size=4).map(tuple), max_size=3).map(tuple),
    num_bytes=sizes,
)
push_groups = st.builds(
    GroupAddress,
    name=names,
    host=names,
    port=st.integers(1, 65535),
    backend=st.sampled_from(["gloo", "nccl"]),
    world_size=st.integers(2, 9),
)
weight_files = st.builds(
    WeightFiles,
    folder=paths,
    sha256=st.dictionaries(
        st.sampled_from(["a.json", "b.safetensors"]), st.just("0" * 64), max_size=2
    ),
)
probes = st.builds(
    WeightProbe,
    prompt_token_ids=st.just(np.array([1, 2], dtype=np.int32)),
    image=st.binary(max_size=9),
    response_token_ids=st.just(np.array([3], dtype=np.int32)),
    logprobs=st.just(np.array([-0.5], dtype=np.float32)),
    tolerance=st.floats(0.001, 1),
)
checksums = st.builds(
    WeightChecksums,
    kind=st.sampled_from(["cpu", "cuda"]),
    by_name=st.dictionaries(names, names, max_size=2),
)
updates = st.builds(
    WeightUpdate,
    version=counts,
    history=counts,
    attempt=counts,
    recipients=st.dictionaries(member_ids, counts, max_size=3),
    source=push_groups | weight_files,
    buckets=st.lists(buckets, max_size=2).map(tuple),
    pause_mode=st.sampled_from(["retract", "in_place", "abort"]),
    probes=st.lists(probes, max_size=2).map(tuple),
    checksums=st.none() | checksums,
)
answers = st.builds(
    p.Answer,
    index=counts,
    token_ids=hnp.arrays(np.int32, st.integers(0, 4)),
    is_cut=st.booleans(),
    error=texts,
)
answer_lists = st.lists(answers, max_size=3).map(tuple)
asked_items = st.builds(
    p.AskedItem, index=counts, sample=samples, view=st.sampled_from(p.EvaluationView)
)
versions = st.lists(counts, max_size=3).map(tuple)
me = {"member_id": member_ids, "incarnation": long_counts}
member_statuses = st.builds(
    p.MemberStatus,
    member_id=names,
    role=st.sampled_from(p.Role),
    silent_s=waits,
    acknowledged_version=st.integers(-1, 9),
    gauges=gauges,
    details=st.dictionaries(names, texts, max_size=2),
)
MESSAGES: dict[type[BaseModel], st.SearchStrategy[Any]] = {
    p.Hello: st.builds(
        p.Hello,
        **me,
        role=st.sampled_from(p.Role),
        protocol_version=counts,
        details=st.dictionaries(names, texts, max_size=2),
    ),
    p.Heartbeat: st.builds(p.Heartbeat, **me, gauges=gauges),
    p.Goodbye: st.builds(p.Goodbye, **me),
    p.LeaseRequest: st.builds(
        p.LeaseRequest,
        **me,
        max_groups=st.integers(1, 1024),
        history=counts,
        serving_version=counts,
        wait_s=waits,
    ),
    p.SubmitGroups: st.builds(
        p.SubmitGroups,
        **me,
        groups=st.lists(st.binary(max_size=99), min_size=1, max_size=3).map(tuple),
    ),
    p.GiveBack: st.builds(
        p.GiveBack,
        **me,
        group_id=names,
        attempt=counts,
        reason=texts,
        blame=st.sampled_from(p.Blame),
    ),
    p.TakeBatch: st.builds(
        p.TakeBatch,
        **me,
        step=sizes,
        rank=counts,
        world_size=sizes,
        first=counts,
        taking=counts,
        wait_s=waits,
    ),
    p.AckBatch: st.builds(
        p.AckBatch,
        **me,
        taking=counts,
        step=sizes,
        rank=counts,
        refused=st.dictionaries(names, texts, max_size=2),
        wait_s=waits,
    ),
    p.Resume: st.builds(p.Resume, **me, step=counts),
    p.CommitStep: st.builds(p.CommitStep, **me, step=counts, oldest=counts),
    p.AnnounceWeights: st.builds(p.AnnounceWeights, **me, update=updates),
    p.WatchWeights: st.builds(
        p.WatchWeights,
        **me,
        seen_serial=counts,
        wait_s=waits,
    ),
    p.AckWeights: st.builds(
        p.AckWeights, **me, history=counts, version=counts, is_pinned=st.booleans()
    ),
    p.OrderMeasurement: st.builds(
        p.OrderMeasurement,
        **me,
        number=long_counts,
        history=counts,
        version=counts,
        sample_ids=st.lists(names, min_size=1, max_size=3).map(tuple),
        num_urgent=counts,
        max_tokens=sizes,
        is_last=st.booleans(),
    ),
    p.ReadMeasurement: st.builds(
        p.ReadMeasurement,
        **me,
        number=long_counts,
        seen=counts,
        is_pinned=st.booleans(),
        wait_s=waits,
    ),
    p.DropMeasurement: st.builds(p.DropMeasurement, **me, number=long_counts),
    p.LeaseAnswers: st.builds(
        p.LeaseAnswers,
        **me,
        history=counts,
        serving_version=counts,
        pinned=versions,
        max_items=st.integers(1, 1024),
        wait_s=waits,
    ),
    p.SubmitAnswers: st.builds(
        p.SubmitAnswers, **me, number=long_counts, answers=answer_lists, given_back=versions
    ),
    p.AnswerLease: st.builds(
        p.AnswerLease,
        number=long_counts,
        version=counts,
        max_tokens=counts,
        is_urgent=st.booleans(),
        is_last=st.booleans(),
        items=st.lists(asked_items, max_size=2).map(tuple),
        finished=st.booleans(),
    ),
    p.MeasurementNews: st.builds(p.MeasurementNews, answers=answer_lists, is_pinned=st.booleans()),
    p.WatchMembers: st.builds(p.WatchMembers, **me, at_least=counts, wait_s=waits),
    p.GetImage: st.builds(p.GetImage, sha256=digests),
    p.GetStatus: st.builds(p.GetStatus),
    p.Finish: st.builds(p.Finish, **me, reason=texts),
    p.Welcome: st.builds(
        p.Welcome,
        run_id=names,
        protocol_version=counts,
        groups_per_step=counts,
        max_staleness=counts,
        total_steps=counts,
        heartbeat_s=waits,
        max_frame_bytes=sizes,
    ),
    p.Done: st.builds(p.Done, finished=st.booleans()),
    p.Leases: st.builds(
        p.Leases, leases=st.lists(leases, max_size=2).map(tuple), finished=st.booleans()
    ),
    p.Submitted: st.builds(
        p.Submitted,
        outcomes=st.lists(
            st.sampled_from(p.Verdict) | st.builds(p.Refused, code=texts, message=texts), max_size=3
        ).map(tuple),
    ),
    p.Batch: st.builds(
        p.Batch,
        step=sizes,
        groups=st.lists(st.binary(max_size=99), max_size=2).map(tuple),
        num_groups=counts,
        exhausted=st.booleans(),
    ),
    p.Acknowledged: st.builds(p.Acknowledged, step=counts, is_complete=st.booleans()),
    p.Resumed: st.builds(p.Resumed, history=counts, version=counts),
    p.Announcement: st.builds(
        p.Announcement, serial=counts, update=st.none() | updates, finished=st.booleans()
    ),
    p.Members: st.builds(
        p.Members,
        acknowledged=st.dictionaries(names, st.integers(-1, 9)),
        ranks=st.dictionaries(names, counts),
    ),
    p.ImageBytes: st.builds(p.ImageBytes, content=st.binary(max_size=99)),
    p.Status: st.builds(
        p.Status,
        run_id=names,
        version=counts,
        history=counts,
        committed=counts,
        total_steps=counts,
        finished=st.booleans(),
        counts=st.dictionaries(names, counts, max_size=2),
        expired_by_reason=st.dictionaries(names, counts, max_size=2),
        trained_lengths=st.dictionaries(names, counts, max_size=2),
        expired_lengths=st.dictionaries(names, counts, max_size=2),
        max_staleness_seen=counts,
        slots_used=counts,
        slots=counts,
        storage=gauges,
        members=st.lists(member_statuses, max_size=2).map(tuple),
    ),
    p.Refused: st.builds(p.Refused, code=texts, message=texts),
}


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
    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(MESSAGES[kind])
    def check(message: BaseModel) -> None:
        frame, *attachments = encode_message(message)
        assert attachments == list(getattr(message, getattr(kind, "attached", ""), ()))
        for back in (decode(encode(message), REGISTRY), decode(frame, REGISTRY, attachments)):
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
    with pytest.raises(ProtocolError, match="Done is one frame, not 2"):
        decode(encode(p.Done()), REGISTRY, [b"more"])
    both = encode(p.SubmitGroups(**who, groups=(b"x",)))
    with pytest.raises(ProtocolError, match="SubmitGroups is one frame, not 2"):
        decode(both, REGISTRY, [b"more"])
    with pytest.raises(ProtocolError, match=r"SubmitGroups\.groups"):
        decode(frame(type="SubmitGroups", **who), REGISTRY)
    with pytest.raises(ProtocolError, match=r"SubmitGroups\.groups"):
        decode(frame(type="SubmitGroups", **who), REGISTRY, [b"x"] * (p.MAX_TOGETHER + 1))


def test_a_frame_over_the_limit_is_refused_unread() -> None:
    content = frame(type="Done", finished=True)
    assert decode(content, REGISTRY, max_bytes=len(content)) == p.Done(finished=True)
    with pytest.raises(ProtocolError, match="limit"):
        decode(content, REGISTRY, max_bytes=len(content) - 1)


def test_the_reason_names_the_field() -> None:
    with pytest.raises(ProtocolError, match=r"^Heartbeat\.gauges\.x: "):
        decode(frame(type="Heartbeat", member_id="a", incarnation=0, gauges={"x": "y"}), REGISTRY)


@settings(max_examples=300, deadline=None, derandomize=True)
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


@settings(max_examples=300, deadline=None, derandomize=True)
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


@settings(max_examples=300, deadline=None, derandomize=True)
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
