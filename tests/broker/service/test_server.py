"""Server and clients over real sockets."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from broker.client import BrokerClient, RequestRefused, heartbeat_forever
from broker.net.transport import loopback_only
from broker.protocol import Blame, Role, Verdict
from broker.service.opening import open_durable
from broker.storage.store import MemoryStore, StoreFailure
from common import group_batch
from common.errors import BrokerUnavailable, ConfigError, ProtocolError
from common.types import ImageRef
from tests.broker.storage.support import FullDisk
from tests.broker.support import (
    Running,
    make_group,
    make_rules,
    make_sample,
    make_service,
    make_source,
    make_update,
    running_broker,
)
from tests.waiting import LIMIT_S, until


async def run_rollout(broker: Running, name: str, max_groups: int) -> int:
    """A whole rollout server without an engine; returns how many groups it made."""
    finished = asyncio.Event()
    served = -1
    is_serving = asyncio.Event()
    num_groups = 0

    async def follow_weights(client: BrokerClient) -> None:
        nonlocal served
        serial = 0
        while not finished.is_set():
            news = await client.watch_weights(serial, wait_s=5)
            serial = news.serial
            if news.finished:
                finished.set()
            elif news.update is not None:
                served = news.update.version
                await client.ack_weights(served)
                is_serving.set()

    async with broker.client(name) as client, asyncio.TaskGroup() as tasks:
        beats = tasks.create_task(heartbeat_forever(client, lambda: {"x": 1}, 0.02, finished))
        tasks.create_task(follow_weights(client))
        await is_serving.wait()
        while not finished.is_set():
            leases = await client.lease(max_groups, served, wait_s=5)
            for lease in leases.leases:
                verdict = await client.submit(make_group(lease, served))
                assert verdict is Verdict.ACCEPTED
                num_groups += 1
        beats.cancel()
        await client.goodbye()
    return num_groups


async def run_learner(broker: Running, steps: int, servers: tuple[str, ...]) -> list[str]:
    """A whole learner without a model; returns the sample ids it trained on, in order."""
    trained: list[str] = []
    async with broker.client("learner-0") as learner:
        await learner.watch_members(len(servers), wait_s=5)

        async def push(version: int) -> None:
            await learner.announce(make_update(version, *servers))

        await push(0)
        for step in range(1, steps + 1):
            batch = await learner.take(step, wait_s=10)
            trained += [group.sample_id for group in batch.groups]
            await learner.ack(step)
            await push(step)
        beyond = await learner.take(steps + 1, wait_s=0)
        assert beyond.exhausted and beyond.groups == ()
        await learner.finish("all steps done")
        await learner.goodbye()
    return trained


@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_two_rollouts_and_a_learner_run_to_the_end(max_staleness: int) -> None:
    source = make_source(11, epochs=2)
    async with running_broker(make_rules(3, max_staleness), source) as broker:
        servers = ("rollout-0", "rollout-1")
        async with asyncio.TaskGroup() as tasks:
            rollouts = [tasks.create_task(run_rollout(broker, name, 2)) for name in servers]
            learner = tasks.create_task(run_learner(broker, 7, servers))
        async with asyncio.timeout(LIMIT_S):
            await broker.serving  # over once everybody has left
        trained = learner.result()
        assert trained == [source.at(i).sample.sample_id for i in range(21)]
        assert sum(rollout.result() for rollout in rollouts) == 21
        counts = broker.service.ledger.counts()
        assert counts["samples_trained"] == counts["samples_issued"] == 21
        assert counts["trajectories_trained"] == 42 and counts["tokens_trained"] == 21 * 7
        assert broker.service.ledger.steps.max_staleness_seen <= max_staleness


async def test_a_lease_request_is_held_until_there_is_work() -> None:
    async with (
        running_broker(make_rules(1), make_source(4)) as broker,
        broker.client("rollout-0") as rollout,
        broker.client("learner-0") as learner,
    ):
        await rollout.ack_weights(0)
        first = (await rollout.lease(4, 0, wait_s=0)).leases
        assert len(first) == 1
        assert (await rollout.lease(4, 0, wait_s=0.05)).leases == ()
        held = asyncio.create_task(rollout.lease(4, 0, wait_s=10))
        await rollout.submit(make_group(first[0], 0))
        await learner.take(1, wait_s=5)
        await learner.ack(1)
        assert not held.done()
        await rollout.ack_weights(1)  # now the slot is free
        assert [lease.group_id for lease in (await held).leases] == ["0/1"]


async def test_a_lapsed_lease_goes_to_another_and_the_zombie_is_fenced() -> None:
    async with (
        running_broker(
            make_rules(1, lease_s=1000), make_source(4), member_timeout_s=5000
        ) as broker,
        broker.client("rollout-0") as zombie,
        broker.client("rollout-1") as other,
    ):
        (lost,) = (await zombie.lease(1, 0, wait_s=0)).leases
        broker.let_pass(1001)
        (again,) = (await other.lease(1, 0, wait_s=5)).leases
        assert (again.group_id, again.attempt) == (lost.group_id, lost.attempt + 1)
        assert again.sampling_seed == lost.sampling_seed
        assert await zombie.submit(make_group(lost, 0)) is Verdict.FENCED
        assert await other.submit(make_group(again, 0)) is Verdict.ACCEPTED
        assert await other.submit(make_group(again, 0)) is Verdict.DUPLICATE


async def test_a_silent_member_loses_its_leases_and_may_come_back() -> None:
    rules = make_rules(1, lease_s=9000)
    async with (
        running_broker(rules, make_source(4), member_timeout_s=1000) as broker,
        broker.client("rollout-0") as silent,
        broker.client("rollout-1") as other,
    ):
        (lost,) = (await silent.lease(1, 0, wait_s=0)).leases
        for _ in range(2):
            broker.let_pass(600)
            await other.heartbeat({})
        (again,) = (await other.lease(1, 0, wait_s=5)).leases
        assert again.group_id == lost.group_id
        assert await silent.submit(make_group(lost, 0)) is Verdict.FENCED  # after a new hello
        status = await silent.status()
        assert "rollout-0" in [member.member_id for member in status.members]
        assert status.expired_by_reason.keys() == {"member_lost"}


async def test_a_restarted_member_supersedes_its_earlier_life() -> None:
    async with (
        running_broker(make_rules(1), make_source(4)) as broker,
        broker.client("rollout-0") as before,
    ):
        (lost,) = (await before.lease(1, 0, wait_s=0)).leases
        held = asyncio.create_task(before.watch_weights(0, wait_s=30))
        await before.heartbeat({})
        async with broker.client("rollout-0") as after:
            (again,) = (await after.lease(1, 0, wait_s=0)).leases
            assert (again.group_id, again.attempt) == (lost.group_id, 1)
            for request in (held, before.submit(make_group(lost, 0)), before.heartbeat({})):
                with pytest.raises(RequestRefused) as refused:
                    await request
                assert refused.value.code == "superseded"
            assert await after.submit(make_group(again, 0)) is Verdict.ACCEPTED


async def test_a_restarted_server_is_not_shown_an_old_push() -> None:
    async with (
        running_broker(make_rules(1), make_source(4)) as broker,
        broker.client("learner-0") as learner,
    ):
        await learner.resume(0)
        async with broker.client("rollout-0") as before:
            await learner.announce(make_update(0, "rollout-0"))
            news = await before.watch_weights(0, wait_s=0)
            assert news.update == make_update(0, "rollout-0")
        async with broker.client("rollout-0") as after:
            assert (await after.watch_weights(0, wait_s=0)).update is None
            held = asyncio.create_task(after.watch_weights(0, wait_s=10))
            await after.heartbeat({})
            await learner.announce(make_update(0, "rollout-0", attempt=1))
            assert (await held).update == make_update(0, "rollout-0", attempt=1)
            with pytest.raises(RequestRefused, match="announced after"):
                await learner.announce(make_update(0, "rollout-0", attempt=0))


async def test_leases_that_arrive_after_a_cancelled_request_go_back() -> None:
    async with (
        running_broker(make_rules(1), make_source(4)) as broker,
        broker.client("rollout-0") as first,
        broker.client("rollout-1") as second,
    ):
        (lease,) = (await first.lease(1, 0, wait_s=0)).leases
        cancelled = asyncio.create_task(second.lease(1, 0, wait_s=30))
        await second.heartbeat({})  # answered after the request above was held
        cancelled.cancel()
        await first.give_back(lease.group_id, lease.attempt, "no time", Blame.NOBODY)
        (again,) = (await first.lease(1, 0, wait_s=5)).leases
        assert again.attempt == 2  # attempt 1 went to the cancelled request and came back


async def test_a_request_sent_again_gets_the_same_leases() -> None:
    async with (
        running_broker(make_rules(4), make_source(4)) as broker,
        broker.client("rollout-0") as rollout,
    ):
        rollout._exchange._new_id = lambda: b"same-id."  # type: ignore[method-assign]
        first = await rollout.lease(2, 0, wait_s=0)
        assert await rollout.lease(2, 0, wait_s=0) == first
        assert broker.service.ledger.counts()["samples_issued"] == 2


async def test_roles_and_strangers_are_refused() -> None:
    async with (
        running_broker(make_rules(), make_source(4)) as broker,
        broker.client("rollout-0") as rollout,
        broker.client("learner-0") as learner,
        broker.client("observer-1") as observer,
    ):
        for request in (rollout.take(1, 0), learner.lease(1, 0, 0), rollout.finish("no")):
            with pytest.raises(RequestRefused, match="wrong_role"):
                await request
        with pytest.raises(RequestRefused, match="unknown_member"):
            await observer.heartbeat({})
        await rollout.heartbeat({"tokens_per_s": 12.5})
        status = await observer.status()
        assert [m.member_id for m in status.members] == ["learner-0", "rollout-0"]
        assert status.members[1].gauges == {"tokens_per_s": 12.5}
        assert status.total_steps == 2 and status.slots == 2 and not status.finished


async def test_held_requests_are_bounded() -> None:
    async with (
        running_broker(make_rules(), make_source(4)) as broker,
        broker.client("rollout-0") as rollout,
    ):
        held = [asyncio.create_task(rollout.watch_weights(0, 30)) for _ in range(40)]
        await asyncio.wait(held, timeout=LIMIT_S, return_when=asyncio.FIRST_EXCEPTION)
        await rollout.heartbeat({})
        refused = [task for task in held if task.done()]
        assert len(refused) == 24
        for task in refused:
            with pytest.raises(RequestRefused, match="too_many"):
                task.result()
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_images_come_by_digest_and_nothing_else_does(tmp_path: Path) -> None:
    content = b"not really a picture" * 100
    (tmp_path / "a.png").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    image = ImageRef(sha256=digest, path="a.png", width=1, height=1)
    gone = ImageRef(sha256="0" * 64, path="gone.png", width=1, height=1)
    source = make_source(1)
    source.samples[0] = make_sample(0).model_copy(update={"image": image, "crop": gone})
    async with (
        running_broker(make_rules(1), source, images=tmp_path) as broker,
        broker.client("observer-1") as observer,
    ):
        assert await asyncio.gather(*[observer.image(digest) for _ in range(20)]) == [content] * 20
        with pytest.raises(RequestRefused, match="unknown_image"):
            await observer.image(hashlib.sha256(b"other").hexdigest())
        with pytest.raises(RequestRefused, match="gone"):
            await observer.image("0" * 64)


async def test_a_batch_larger_than_a_frame_comes_in_several() -> None:
    async with (
        running_broker(make_rules(5), make_source(5), max_frame_bytes=6000) as broker,
        broker.client("rollout-0") as rollout,
        broker.client("learner-0") as learner,
    ):
        sent = [make_group(x, 0, tokens=99) for x in (await rollout.lease(5, 0, wait_s=0)).leases]
        for group in sent:
            await rollout.submit(group)
        batch = await learner.take(1, wait_s=0)
        encode = group_batch.encode
        assert list(map(encode, batch.groups)) == list(map(encode, sent))


async def test_a_message_over_the_limit_of_the_broker_is_not_even_sent() -> None:
    async with (
        running_broker(make_rules(1), make_source(4), max_frame_bytes=3000) as broker,
        broker.client("rollout-0") as rollout,
    ):
        (lease,) = (await rollout.lease(1, 0, wait_s=0)).leases
        with pytest.raises(ProtocolError, match=r"limit of 3000. Fix: raise broker.max_frame_mib"):
            await rollout.submit(make_group(lease, 0, tokens=1000))
        assert await rollout.submit(make_group(lease, 0)) is Verdict.ACCEPTED


async def test_without_a_broker_the_client_gives_up_in_the_end() -> None:
    async with running_broker(make_rules(), make_source(4)) as broker:
        address = broker.address
    client = BrokerClient(address, "rollout-0", Role.ROLLOUT, request_timeout_s=0.05, tries=3)
    with pytest.raises(BrokerUnavailable, match=r"Hello after 3 tries"):
        await client.__aenter__()


async def test_a_client_started_before_its_broker_waits_for_it() -> None:
    async with running_broker(make_rules(), make_source(4)) as broker:
        address = broker.address
    client = BrokerClient(address, "rollout-0", Role.ROLLOUT, request_timeout_s=0.1, tries=600)
    joining = asyncio.create_task(client.__aenter__())
    await asyncio.wait([joining], timeout=0.3)
    assert not joining.done()
    async with running_broker(make_rules(), make_source(4), address=address):
        await joining
        assert client.welcome.total_steps == 2
        await client.goodbye()
        await client.__aexit__(None, None, None)


async def test_stopping_tells_members_and_waits_for_them() -> None:
    async with running_broker(make_rules(1), make_source(4), drain_s=30) as broker:
        async with broker.client("rollout-0") as rollout:
            (_,) = (await rollout.lease(1, 0, wait_s=0)).leases
            held = asyncio.create_task(rollout.lease(1, 0, wait_s=30))
            watching = asyncio.create_task(rollout.watch_weights(0, wait_s=30))
            await rollout.heartbeat({})
            broker.stop.set()
            assert (await held).finished and (await watching).finished
            assert (await rollout.heartbeat({})).finished
            assert not broker.serving.done()
            await rollout.goodbye()
        async with asyncio.timeout(LIMIT_S):
            await broker.serving


@pytest.mark.parametrize("num_turns", range(4))
async def test_the_run_ends_whatever_the_timer_does_at_that_moment(num_turns: int) -> None:
    async with running_broker(make_rules(), make_source(4)) as broker:
        async with broker.client("rollout-0") as rollout:
            await rollout.heartbeat({})  # the timer now waits for this member's deadline
        broker.server._deadline_moved.set()
        for _ in range(num_turns):  # of the event loop, while the timer wakes up
            await asyncio.sleep(0)
        broker.server._is_over.set()
        done, _ = await asyncio.wait((broker.serving,), timeout=LIMIT_S)
        if not done:
            broker.serving.cancel()
        assert done


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://10.1.2.3:1", "ipc://x", "tcp://:1"]
)
def test_binding_off_loopback_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="CURVE"):
        loopback_only(address)


async def test_a_port_in_use_is_a_config_error() -> None:
    async with running_broker(make_rules(), make_source(4)) as broker:
        with pytest.raises(ConfigError, match="Fix"):
            async with running_broker(make_rules(), make_source(4), address=broker.address):
                pass


async def test_while_the_disk_is_full_clients_hear_why_and_then_go_on(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path)
    service, store, _ = open_durable(disk, make_source(4), make_rules(1), fsync="never")
    async with (
        running_broker(make_rules(1), make_source(4), service=service) as broker,
        broker.client("rollout-0") as rollout,
    ):
        disk.room = 0
        leasing = asyncio.create_task(rollout.lease(1, 0, wait_s=0))  # its reply is withheld
        await until(lambda: store.failure is not None)
        hasty = broker.client("rollout-1", patience_s=0.0)
        with pytest.raises(RequestRefused, match=r"store_failure.*No space left.*Fix"):
            await hasty.__aenter__()
        assert (await rollout.status()).counts["samples_issued"] == 1
        waiting = asyncio.create_task(rollout.ack_weights(0))
        done, _ = await asyncio.wait((leasing, waiting), timeout=0.3)
        assert not done
        disk.room = 10**9
        async with asyncio.timeout(LIMIT_S):
            assert len((await leasing).leases) == 1
            await waiting
    store.close()


class FailsMeanwhile(MemoryStore):
    """A store whose flush, in a thread, fails while a request is being handled."""

    def __init__(self) -> None:
        super().__init__(2**20)
        self.has_room_again = False
        self.tries = 0

    def record(
        self, now: float, command: str, arguments: tuple[Any, ...], outcome: Any = None
    ) -> None:
        self.is_dirty = True
        self.failure = None if self.has_room_again else "the disk is full"

    def flush(self) -> None:
        self.tries += 1
        if not self.has_room_again:
            raise StoreFailure("the disk is full")
        self.is_dirty, self.failure = False, None


async def test_a_reply_waits_for_its_flush_if_the_store_failed_while_it_was_handled() -> None:
    service = make_service(make_source(4), make_rules())
    service.store = store = FailsMeanwhile()
    service._recorder.store = store
    async with running_broker(make_rules(), make_source(4), service=service) as broker:
        client = broker.client("rollout-0", request_timeout_s=60.0)
        joining = asyncio.create_task(client.__aenter__())
        await until(lambda: store.tries >= 2)
        assert not joining.done(), "the hello was answered although its record is not safe"
        store.has_room_again = True
        async with asyncio.timeout(LIMIT_S):
            await joining
        await client.__aexit__(None, None, None)
