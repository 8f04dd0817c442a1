"""Whatever comes from whomever, in whatever order: the broker answers, and its books are right."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from broker import protocol as p
from broker.net.transport import Received
from broker.protocol import Role
from broker.service.images import DatasetImages
from broker.service.server import BrokerServer
from common import group_batch
from common.images import ImageStore
from common.wire import decode, encode
from tests.broker.support import make_group, make_rules, make_service, make_source
from tests.common.support import MESSAGES

LIMIT = 2**20
NAMES = ("learner-0", "rollout-0", "rollout-1", "observer-0")
OURS = ("Hello", "LeaseRequest", "GiveBack", "TakeBatch", "AckBatch", "Resume", "AckWeights")
MEASURING = ("OrderMeasurement", "ReadMeasurement", "DropMeasurement", "LeaseAnswers")
MEASURING += ("SubmitAnswers",)


class NoTasks:
    """Image reads, which this test does not wait for."""

    def create_task(self, work: Any, name: str) -> None:
        work.close()


class NoListener:
    def open(self) -> str:
        return "nowhere"


class Broker:
    def __init__(self) -> None:
        source = make_source(6)
        heldout = {sample.sample_id: sample for sample in source.samples}
        self.service = make_service(source, make_rules(max_staleness=1, n=1), heldout=heldout)
        dataset_images = DatasetImages(ImageStore.__new__(ImageStore), source.samples)
        self.server = BrokerServer(
            self.service,
            dataset_images,
            NoListener(),
            max_frame_bytes=LIMIT,  # type: ignore[arg-type]
        )
        self.server._now = lambda: self.now  # type: ignore[method-assign]
        self.now = 0.0

    def take(self, frame: bytes, role: Role | None, peer: bytes) -> list[BaseModel]:
        self.server._shut_out.clear()
        received = Received([peer, b"12345678", frame], role)
        outgoing = self.server._handle(received, NoTasks())  # type: ignore[arg-type]
        for one in outgoing:
            frame, *attached = self.server._frames_of(one.message)
            decode(frame, p.REPLIES, *attached)
        self.service.ledger.check()
        return [one.message for one in outgoing]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


small = st.integers(0, 3)


@st.composite
def likely(draw: st.DrawFn) -> BaseModel:
    """A request that may well concern what is going on."""
    me = {"member_id": draw(st.sampled_from(NAMES)), "incarnation": draw(st.integers(0, 1))}
    group = f"0/{draw(st.integers(0, 6))}"
    kinds = {
        "Hello": lambda: p.Hello(**me, role=draw(st.sampled_from(Role))),
        "LeaseRequest": lambda: p.LeaseRequest(
            **me, max_groups=2, history=draw(small), serving_version=draw(small), wait_s=0
        ),
        "GiveBack": lambda: p.GiveBack(
            **me,
            group_id=group,
            attempt=draw(small),
            reason="",
            blame=draw(st.sampled_from(p.Blame)),
        ),
        "TakeBatch": lambda: p.TakeBatch(
            **me, step=1 + draw(small), rank=draw(small), world_size=1 + draw(small), wait_s=0
        ),
        "AckBatch": lambda: p.AckBatch(
            **me, step=1 + draw(small), batch_id=draw(small), refused={group: ""}, rank=draw(small)
        ),
        "Resume": lambda: p.Resume(**me, step=draw(small)),
        "AckWeights": lambda: p.AckWeights(
            **me, history=draw(small), version=draw(small), is_pinned=draw(st.booleans())
        ),
        "OrderMeasurement": lambda: p.OrderMeasurement(
            **me, number=draw(small), history=draw(small), version=draw(small),
            sample_ids=("s0", f"s{draw(small)}"), num_urgent=draw(small), max_tokens=2,
        ),
        "ReadMeasurement": lambda: p.ReadMeasurement(
            **me, number=draw(small), seen=draw(small), is_pinned=draw(st.booleans()), wait_s=0
        ),
        "DropMeasurement": lambda: p.DropMeasurement(**me, number=draw(small)),
        "LeaseAnswers": lambda: p.LeaseAnswers(
            **me, history=draw(small), serving_version=draw(small), pinned=(draw(small),),
            max_items=1 + draw(small), wait_s=draw(st.sampled_from([0.0, 1.0])),
        ),
        "SubmitAnswers": lambda: p.SubmitAnswers(
            **me,
            number=draw(small),
            answers=(p.Answer(index=draw(small), token_ids=np.zeros(1, dtype=np.int32)),),
            given_back=(draw(small),),
        ),
    }  # fmt: skip
    return kinds[draw(st.sampled_from(OURS + MEASURING))]()


anything = st.sampled_from(sorted(p.REQUESTS)).flatmap(lambda kind: MESSAGES[p.REQUESTS[kind]])
roles = st.none() | st.sampled_from(Role)


@settings(max_examples=120, derandomize=True)
@given(st.lists(st.tuples(likely() | likely() | anything, roles, st.floats(0, 9)), max_size=25))
def test_any_messages_in_any_order_are_answered(sent: list[tuple[BaseModel, Any, float]]) -> None:
    broker = Broker()
    for request, role, pause_s in sent:
        broker.now += pause_s
        answers = broker.take(encode(request), role, b"peer")
        assert all(
            not isinstance(answer, p.Refused) or answer.code != "internal" for answer in answers
        ), "a fault of ours"


@settings(max_examples=60, derandomize=True)
@given(st.data())
def test_a_group_with_any_byte_changed_is_taken_or_refused(data: st.DataObject) -> None:
    broker = Broker()
    me: dict[str, Any] = {"member_id": "rollout-0", "incarnation": 1}
    broker.take(encode(p.Hello(**me, role=Role.ROLLOUT)), None, b"peer")
    lease = p.LeaseRequest(**me, max_groups=1, history=0, serving_version=0, wait_s=0)
    (leases,) = broker.take(encode(lease), None, b"peer")
    assert isinstance(leases, p.Leases)
    content = bytearray(group_batch.encode(make_group(leases.leases[0], 0)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    frame = encode(p.SubmitGroups(**me, groups=(bytes(content),)))
    (answer,) = broker.take(frame, Role.ROLLOUT, b"peer")
    assert isinstance(answer, p.Submitted)
    (outcome,) = answer.outcomes
    assert isinstance(outcome, p.Verdict) or outcome.code == "bad_group"


@settings(max_examples=300, derandomize=True)
@given(st.binary(max_size=80), roles, st.sampled_from(sorted(p.REQUESTS)), st.booleans())
def test_any_bytes_are_refused(content: bytes, role: Any, kind: str, has_kind: bool) -> None:
    head = b"\x85\xa4type" + bytes([0xA0 + len(kind)]) + kind.encode() if has_kind else b""
    for answer in Broker().take(head + content, role, b"peer"):
        assert isinstance(answer, p.Refused) and answer.code in ("malformed", "wrong_role")
