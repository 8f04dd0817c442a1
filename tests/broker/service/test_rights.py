"""Who asks for what: every request, with every key and without, at a real broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from broker import protocol as p
from broker.client import BrokerClient, RequestRefused
from broker.keys import ClientKeys, client_keys, make_keys, server_keys
from broker.net.transport import ZmqLink, ZmqListener
from broker.protocol import Role
from broker.service.images import DatasetImages
from broker.service.rights import check_right
from broker.service.server import BrokerServer
from broker.service.service import BrokerService
from common.images import ImageStore
from common.wire import decode, encode
from tests.broker.fingerprint import fingerprint
from tests.broker.support import (
    make_group,
    make_rules,
    make_service,
    make_source,
    make_update,
    submission,
)
from tests.waiting import LIMIT_S

LIMIT = 2**20
FOR_ANYONE = (p.Hello, p.Goodbye, p.GetStatus)
FOR_MEMBERS = (p.Heartbeat, p.GetImage)
FOR_ROLLOUT = (
    p.LeaseRequest, p.SubmitGroups, p.GiveBack, p.WatchWeights, p.AckWeights, p.LeaseAnswers,
    p.SubmitAnswers,
)  # fmt: skip
FOR_LEARNER = (
    p.TakeBatch, p.AckBatch, p.Resume, p.CommitStep, p.AnnounceWeights, p.WatchMembers, p.Finish,
    p.OrderMeasurement, p.ReadMeasurement, p.DropMeasurement,
)  # fmt: skip
FOR = {
    Role.ROLLOUT: {*FOR_ANYONE, *FOR_MEMBERS, *FOR_ROLLOUT},
    Role.LEARNER: {*FOR_ANYONE, *FOR_MEMBERS, *FOR_LEARNER},
    Role.OBSERVER: {*FOR_ANYONE},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    return folder


class World:
    """A broker with keys, its learner and its rollout server in the middle of a step."""

    def __init__(self, folder: Path, service: BrokerService, address: str) -> None:
        self.folder = folder
        self.service = service
        self.address = address

    def client(self, role: Role, name: str, key: Role | None = None) -> BrokerClient:
        link = ZmqLink(client_keys(self.folder, key or role))
        return BrokerClient(self.address, name, role, request_timeout_s=LIMIT_S, tries=1, link=link)

    def state(self) -> tuple[Any, ...]:
        """What nobody may change who has not the right."""
        members = [repr(member.owner) for member in self.service.membership.all()]
        serial = self.service._recorder.announcements.serial
        measuring = self.service._evaluations.revision
        ledger = fingerprint(self.service.ledger)
        return ledger, self.service.is_finished, members, serial, measuring


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    source = make_source(8)
    heldout = {sample.sample_id: sample for sample in source.samples}
    service = make_service(source, make_rules(), heldout=heldout)
    dataset_images = DatasetImages(ImageStore(Path(".")), source.samples)
    listener = ZmqListener("tcp://127.0.0.1:0", LIMIT, server_keys(folder))
    server = BrokerServer(service, dataset_images, listener, max_frame_bytes=LIMIT)
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT_S), server, asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(stop, 0.05))
        yield World(folder, service, server.address)
        stop.set()


def requests_of(learner: BrokerClient, rollout: BrokerClient) -> Iterator[BaseModel]:
    """One of each kind that would be carried out if its sender were believed."""
    is_learner = {"member_id": "learner-0", "incarnation": learner._incarnation}
    is_rollout = {"member_id": "rollout-0", "incarnation": rollout._incarnation}
    yield p.Hello(member_id="learner-0", role=Role.LEARNER, incarnation=5)
    yield p.Hello(member_id="rollout-0", role=Role.ROLLOUT, incarnation=5)
    yield p.Heartbeat(**is_learner, gauges={"phase": 9.0})
    yield p.Heartbeat(**is_rollout, gauges={"phase": 9.0})
    yield p.Goodbye(**is_learner)
    yield p.Goodbye(**is_rollout)
    yield p.LeaseRequest(**is_rollout, max_groups=1, history=0, serving_version=0, wait_s=0)
    yield submission(is_rollout, make_group(LEASES[0], 0))
    yield p.GiveBack(
        **is_rollout, group_id="0/0", attempt=0, reason="no reason", blame=p.Blame.SAMPLE
    )
    yield p.WatchWeights(**is_rollout, seen_serial=0, wait_s=0)
    yield p.AckWeights(**is_rollout, history=0, version=0)
    yield p.TakeBatch(**is_learner, step=1, wait_s=0)
    yield p.AckBatch(**is_learner, step=1, batch_id=1)
    yield p.Resume(**is_learner, step=0)
    yield p.CommitStep(**is_learner, step=0, oldest=0)
    yield p.AnnounceWeights(**is_learner, update=make_update(0, "rollout-0"))
    yield p.WatchMembers(**is_learner, at_least=0, wait_s=0)
    yield p.Finish(**is_learner, reason="no reason")
    yield p.OrderMeasurement(
        **is_learner, number=2, history=0, version=0, sample_ids=("s1",), max_tokens=4
    )
    yield p.ReadMeasurement(**is_learner, number=1, seen=0, is_pinned=True, wait_s=0)
    yield p.DropMeasurement(**is_learner, number=1)
    yield p.LeaseAnswers(**is_rollout, history=0, serving_version=0, max_items=1, wait_s=0)
    yield p.SubmitAnswers(**is_rollout, number=1, answers=(ANSWER,))
    yield p.GetImage(sha256="0" * 64)
    yield p.GetStatus()


LEASES: list = []
ANSWER = p.Answer(index=0, token_ids=np.array([7], dtype=np.int32))


async def ask(address: str, keys: ClientKeys | None, requests: list[BaseModel]) -> list[BaseModel]:
    """The answers, in order. A new connection each time: none is shut out for the one before."""
    link = ZmqLink(keys)
    link.open(address, LIMIT)
    try:
        answers = []
        for number, request in enumerate(requests):
            await link.send([number.to_bytes(8), encode(request)])
            request_id, frame = await link.receive()
            assert request_id == number.to_bytes(8)
            answers.append(decode(frame, p.REPLIES))
        return answers
    finally:
        link.close()


@contextlib.asynccontextmanager
async def in_a_step(folder: Path) -> AsyncIterator[tuple[World, list[BaseModel]]]:
    """A world, and the requests that its members could make now."""
    async with (
        world(folder) as made,
        made.client(Role.LEARNER, "learner-0") as learner,
        made.client(Role.ROLLOUT, "rollout-0") as rollout,
    ):
        await learner.resume(0)
        LEASES[:] = (await rollout.lease(2, 0, wait_s=0)).leases
        await rollout.submit(make_group(LEASES[1], 0))
        await learner.order_measurement(1, 0, 0, ["s0"], num_urgent=0, max_tokens=4, is_last=False)
        yield made, list(requests_of(learner, rollout))


def test_every_request_is_somebodys() -> None:
    kinds = [*FOR_ANYONE, *FOR_MEMBERS, *FOR_ROLLOUT, *FOR_LEARNER]
    assert sorted(kind.__name__ for kind in kinds) == sorted(p.REQUESTS)
    for name, kind in p.REQUESTS.items():
        check_right(name, None)  # a broker without keys knows nobody
        assert kind.senders == {role for role in Role if kind in FOR[role]}


@pytest.mark.parametrize("role", Role)
async def test_a_key_opens_what_its_role_may_and_changes_nothing_else(
    folder: Path, role: Role
) -> None:
    async with in_a_step(folder) as (made, requests):
        told = [r.role if isinstance(r, p.Hello) else None for r in requests]
        owners = [getattr(request, "member_id", "").partition("-")[0] for request in requests]
        foreign = [
            request
            for request, tells, owner in zip(requests, told, owners, strict=True)
            if type(request) not in FOR[role]
            or tells not in (None, role)
            or owner not in ("", role.value)
        ]
        assert {Role.ROLLOUT: 13, Role.LEARNER: 10, Role.OBSERVER: 24}[role] == len(foreign)
        before = made.state()
        answers = await ask(made.address, client_keys(folder, role), foreign)
        for request, answer in zip(foreign, answers, strict=True):
            assert isinstance(answer, p.Refused) and answer.code == "wrong_role", request
        assert made.state() == before
        (status,) = await ask(made.address, client_keys(folder, role), [p.GetStatus()])
        assert isinstance(status, p.Status) and all(not m.gauges for m in status.members)


async def test_without_a_key_no_request_is_answered(folder: Path) -> None:
    async with in_a_step(folder) as (made, requests):
        before = made.state()
        link = ZmqLink(None)
        link.open(made.address, LIMIT)
        for number, request in enumerate(requests):
            await link.send([number.to_bytes(8), encode(request)])
        # Whoever has a key is answered meanwhile, so an answer would have come.
        for _ in range(3):
            await ask(made.address, client_keys(folder, Role.OBSERVER), [p.GetStatus()])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await link.receive()
        link.close()
        assert made.state() == before


async def test_a_member_that_has_anothers_key_is_told(folder: Path) -> None:
    async with world(folder) as made:
        client = made.client(Role.LEARNER, "learner-0", key=Role.ROLLOUT)
        with pytest.raises(RequestRefused, match=r"^wrong_role: a learner needs a learner's key"):
            await client.__aenter__()
