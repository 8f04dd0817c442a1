"""A fault at one request ends that request; a ledger in doubt ends the broker."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from broker import protocol as p
from broker.service.handlers import handlers_of
from broker.service.images import DatasetImages
from broker.service.opening import open_durable
from broker.service.recorder import BooksBroken
from broker.service.service import BrokerService
from broker.storage.disk import FolderDisk
from common.group import Group
from common.images import ImageStore
from common.types import ImageRef
from tests.broker.fingerprint import fingerprint
from tests.broker.support import (
    make_group,
    make_rules,
    make_sample,
    make_service,
    make_source,
    running_broker,
    submission,
)
from tests.groups import with_columns

ME: dict[str, Any] = {"member_id": "rollout-0", "incarnation": 1}
LEASE = p.LeaseRequest(**ME, max_groups=1, history=0, serving_version=0, wait_s=0)


def ask(service: BrokerService, request: BaseModel) -> BaseModel:
    (reply,) = service.handle(b"peer", b"12345678", request, 1.0)
    return reply.message


def joined(service: BrokerService) -> BrokerService:
    ask(service, p.Hello(**ME, role=p.Role.ROLLOUT))
    return service


def submit(service: BrokerService, group: Group) -> p.Verdict | p.Refused:
    answer = ask(service, submission(ME, group))
    assert isinstance(answer, p.Submitted)
    (outcome,) = answer.outcomes
    return outcome


@pytest.mark.parametrize("number", [-1, -(2**31)])
def test_numbers_that_count_nothing_are_refused_and_the_group_can_still_come(
    tmp_path: Path, number: int
) -> None:
    disk = FolderDisk(tmp_path)
    service, store, _ = open_durable(disk, make_source(4), make_rules(), fsync="never")
    joined(service)
    leases = ask(service, LEASE)
    assert isinstance(leases, p.Leases)
    group = make_group(leases.leases[0], 0)
    before = fingerprint(service.ledger)
    column = [number, 0]
    for altered in (
        with_columns(group, span_versions=column),
        with_columns(group, cache_versions=column),
        with_columns(group, indices=column),
        replace(group, num_prompt_tokens=number),
        replace(group, attempt=number),
    ):
        answer = submit(service, altered)
        assert isinstance(answer, p.Refused) and answer.code == "bad_group"
    assert fingerprint(service.ledger) == before and store.figures()["held_groups"] == 0
    assert submit(service, group) is p.Verdict.ACCEPTED
    store.flush()
    store.close()


def test_weights_that_do_not_exist_yet_are_refused_before_anything_is_kept() -> None:
    service = joined(make_service(make_source(4), make_rules()))
    leases = ask(service, LEASE)
    assert isinstance(leases, p.Leases)
    answer = submit(service, make_group(leases.leases[0], 7))
    assert isinstance(answer, p.Refused) and answer.code == "bad_group"
    assert service.store.figures()["held_groups"] == 0


def test_a_fault_in_the_store_is_refused_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = joined(make_service(make_source(4), make_rules()))
    leases = ask(service, LEASE)
    assert isinstance(leases, p.Leases)

    def fault(*_: object) -> None:
        raise OverflowError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "put", fault)
        with caplog.at_level(logging.ERROR):
            answer = submit(service, make_group(leases.leases[0], 0))
    assert isinstance(answer, p.Refused) and answer.code == "internal"
    assert "OverflowError" in answer.message and "secret" not in answer.message
    assert "SubmitGroups met a fault" in caplog.text and "a secret" in caplog.text
    again = submit(service, make_group(leases.leases[0], 0))
    assert again is p.Verdict.ACCEPTED


def test_a_ledger_that_fails_in_a_change_ends_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    service = joined(make_service(make_source(4), make_rules()))

    def lease(*_: object) -> None:
        service.ledger._revision += 1
        raise KeyError("half-way")

    monkeypatch.setattr(service.ledger, "lease", lease)
    with pytest.raises(BooksBroken, match="the ledger failed at lease: KeyError"):
        ask(service, LEASE)


@pytest.mark.parametrize("path", ["a\0b.png", "missing.png", "a/" * 3000 + "x.png"])
async def test_a_row_with_an_impossible_path_costs_its_image_alone(
    tmp_path: Path, path: str
) -> None:
    sample = make_sample(0)
    ref = ImageRef.model_construct(**{**sample.image.__dict__, "path": path})
    images = DatasetImages(ImageStore(tmp_path), [sample.model_copy(update={"image": ref})])
    async with running_broker(make_rules(), make_source(4)) as broker:
        broker.server._blocking = handlers_of(images)
        async with broker.client("rollout-0") as client:
            with pytest.raises(Exception, match=r"^unknown_image: "):
                await client.image(ref.sha256)
            assert (await client.status()).version == 0


async def test_any_fault_of_an_image_is_its_reader_s_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault(self: DatasetImages, sha256: str) -> bytes:
        raise MemoryError

    monkeypatch.setattr(DatasetImages, "read", fault)
    async with (
        running_broker(make_rules(), make_source(4)) as broker,
        broker.client("rollout-0") as client,
    ):
        with pytest.raises(Exception, match=r"^internal: .*MemoryError"):
            await client.image("0" * 64)
        assert (await client.status()).version == 0
