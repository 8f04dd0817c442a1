"""The broker under load: its own process, the real client, the weight updates that free slots."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from broker.client import BrokerClient
from broker.keys import client_keys, make_keys
from broker.net.transport import ZmqLink, zmq_listener
from broker.protocol import Role, Verdict
from broker.service.images import DatasetImages
from broker.service.opening import open_broker
from broker.service.server import BrokerServer
from common import lifecycle
from common.config import BrokerSection, LearnerSection, RolloutSection, RunConfig, RunSection
from common.group import Group, Responses, Trajectory, VersionSpan
from common.images import ImageStore
from common.types import FinishReason, GroupLease
from tests.bench.contest.children import serving
from tests.bench.contest.load import Load
from tests.broker.support import make_source, make_update
from tests.seen import SEEN

_NUM_SAMPLES, _EPOCHS = 1000, 10_000
_WAIT_S = 30.0
_DRAIN_S = 0.1
_COMMIT_EVERY_S = 1.0  # far more often than a run writes checkpoints
_ROLLOUT, _LEARNER = "rollout-0", "learner-0"


@dataclass(frozen=True)
class OurBroker:
    """Our broker, and what drives it.

    Args:
        has_keys: as the launcher's runs have it; all else is as without.
    """

    is_durable: bool
    has_keys: bool = False

    def missing(self) -> str | None:
        return None

    @contextlib.contextmanager
    def server(self, load: Load) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="bench-broker-") as folder:
            run_folder = Path(folder, "run") if self.is_durable else None
            keys = Path(folder, "keys") if self.has_keys else None
            if keys is not None:
                make_keys(keys)
            with serving(_serve, run_folder, keys, load) as address:
                yield address if keys is None else f"{address} {keys}"

    @contextlib.asynccontextmanager
    async def producer(self, address: str, load: Load) -> AsyncIterator["RolloutServer"]:
        async with _client(address, _ROLLOUT, Role.ROLLOUT) as client:
            server = RolloutServer(client, load)
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(server.follow_weights())
                await server.is_serving.wait()
                leasing = tasks.create_task(server.lease_forever())
                yield server
                following.cancel()
                leasing.cancel()
            await client.goodbye()

    @contextlib.asynccontextmanager
    async def consumer(self, address: str, load: Load) -> AsyncIterator["Learner"]:
        async with _client(address, _LEARNER, Role.LEARNER) as client:
            learner = Learner(client)
            await learner.begin()
            yield learner
            await client.goodbye()


def _client(address: str, name: str, role: Role) -> BrokerClient:
    """A client; a server's address has the folder of its keys behind it, if there is one."""
    url, _, keys = address.partition(" ")
    return BrokerClient(
        url, name, role, link=ZmqLink(client_keys(Path(keys), role) if keys else None)
    )


class RolloutServer:
    def __init__(self, client: BrokerClient, load: Load) -> None:
        self.is_serving = asyncio.Event()
        self._client = client
        self._load = load
        self._leases: asyncio.Queue[GroupLease] = asyncio.Queue(load.in_flight)
        self._history = 0
        self._version = -1
        self._sampled = _responses(load, 0)
        self._responses = self._sampled

    async def follow_weights(self) -> None:
        serial = 0
        while True:
            news = await self._client.watch_weights(serial, _WAIT_S)
            serial = news.serial
            if news.update is not None:
                self._history, self._version = news.update.history, news.update.version
                versions = [self._version] * len(self._sampled)
                self._responses = replace(
                    self._sampled, span_versions=versions, cache_versions=versions
                )
                await self._client.ack_weights(self._version, self._history)
                self.is_serving.set()

    async def lease_forever(self) -> None:
        """Lease as the rollout worker does, while other groups are under way."""
        while True:
            reply = await self._client.lease(
                self._load.in_flight, self._version, _WAIT_S, self._history
            )
            for lease in reply.leases:
                await self._leases.put(lease)

    async def permit(self) -> GroupLease:
        return await self._leases.get()

    async def submit(self, permit: GroupLease) -> None:
        group = Group(
            group_id=permit.group_id,
            attempt=permit.attempt,
            sample_id=permit.sample.sample_id,
            view=SEEN,
            prompt_token_ids=np.arange(64, dtype=np.int32),
            num_prompt_tokens=1000,
            responses=self._responses,
        )
        verdict = await self._client.submit(group)
        assert verdict is Verdict.ACCEPTED, verdict


class Learner:
    """Trains nothing: acknowledges each batch and announces the weights it would have made."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._step = 0
        self._history = 0
        self._next_commit = time.monotonic() + _COMMIT_EVERY_S
        self._announcing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._step = (await self._client.status()).version
        self._history = (await self._client.resume(self._step)).history
        self._announcing = asyncio.create_task(self._announce_to_the_first())

    async def take(self) -> None:
        assert self._announcing is not None
        await self._announcing
        batch = await self._client.take(self._step + 1, _WAIT_S)
        assert batch.groups, "the producer makes too little"

    async def release(self) -> None:
        self._step += 1
        await self._client.ack(self._step)
        await self._announce()
        if time.monotonic() > self._next_commit:
            await self._client.commit(self._step, self._step)
            self._next_commit = time.monotonic() + _COMMIT_EVERY_S

    async def _announce_to_the_first(self) -> None:
        await self._client.watch_members(1, _WAIT_S)
        await self._announce()

    async def _announce(self) -> None:
        await self._client.announce(make_update(self._step, _ROLLOUT, history=self._history))


def _responses(load: Load, version: int) -> Responses:
    """What an engine would have sampled for any group is made once."""
    random = np.random.default_rng(version)
    trajectories = tuple(
        Trajectory(
            index=index,
            response_token_ids=random.integers(0, 150_000, load.tokens, np.int32),
            rollout_logprobs=-random.random(load.tokens, np.float32),
            version_spans=(VersionSpan(version=version, start=0, end=load.tokens),),
            cache_version=version,
            finish_reason=FinishReason.STOP,
        )
        for index in range(load.trajectories_per_group)
    )
    return Responses.of(trajectories)


def _serve(
    say_address: Callable[[str], None], run_folder: Path | None, keys: Path | None, load: Load
) -> None:
    """Serve as broker.main does, on samples that are in no file."""
    config = RunConfig(
        run=RunSection(folder=run_folder),
        broker=BrokerSection(
            address="tcp://127.0.0.1:0", keys=keys, max_staleness=load.max_staleness
        ),
        rollout=RolloutSection(trajectories_per_sample=load.trajectories_per_group),
        learner=LearnerSection(groups_per_step=load.groups_per_step),
    )
    source = make_source(_NUM_SAMPLES, epochs=_EPOCHS)

    async def serve(stop: asyncio.Event) -> None:
        opened = open_broker(config, source)
        server = BrokerServer(
            opened.service,
            DatasetImages(ImageStore(Path(".")), []),
            zmq_listener(config.broker, config.broker.address),
            max_frame_bytes=config.broker.max_frame_mib * 2**20,
            started_at=opened.started_at,
        )
        try:
            async with server, asyncio.TaskGroup() as tasks:
                syncs = tasks.create_task(opened.sync_at_intervals())
                say_address(server.address)
                await server.serve(stop, _DRAIN_S)
                syncs.cancel()
        finally:
            opened.service.store.close()

    lifecycle.run(serve)
