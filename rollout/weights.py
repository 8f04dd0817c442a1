"""Carry out the weight updates that the learner announces.

    init group (only a new one) > pause > begin > one call a bucket > end > check > resume > ack

A push that fails leaves the engine paused and the process not leasing (quarantined) until a later
push succeeds: weights that changed half-way never serve.
"""

import asyncio
import logging
import time

from broker.client import BrokerClient
from common.errors import EngineError
from common.types import WeightUpdate
from rollout.engine import Engine
from rollout.serving import Served, Serving

logger = logging.getLogger(__name__)
_WATCH_S = 5.0  # how long the broker may hold the question: if it dies, so long nobody asks again


class WeightReceiver:
    """The receiving side of pushes, on one engine."""

    def __init__(self, engine: Engine, member_id: str) -> None:
        self._engine = engine
        self._member_id = member_id
        self._group: str | None = None
        self._is_session_open = False

    def is_addressee(self, update: WeightUpdate) -> bool:
        return self._member_id in update.group.ranks

    async def receive(self, update: WeightUpdate) -> None:
        """One whole push. Raises EngineError; the engine is then paused and must not serve."""
        await self._join(update)
        await self._engine.pause(update.pause_mode)
        if self._is_session_open:  # left by a push that failed
            await self._engine.end_update()
            self._is_session_open = False
        await self._engine.begin_update()
        self._is_session_open = True
        last = len(update.buckets) - 1
        for number, bucket in enumerate(update.buckets):
            version = update.version if number == last else None
            await self._engine.update(bucket, group=update.group.name, final_version=version)
        await self._engine.end_update()
        self._is_session_open = False
        served = await self._engine.version()
        if served != update.version:
            raise EngineError(f"after the push of version {update.version} it reports {served}")
        await self._engine.resume()

    async def leave_group(self) -> None:
        """Forgets the group, so that the next push joins afresh."""
        if self._group is not None:
            name, self._group = self._group, None
            try:
                await self._engine.destroy_group(name)
            except EngineError as error:  # it may never have come into being
                logger.info("group %s: %s", name, error)

    async def _join(self, update: WeightUpdate) -> None:
        group = update.group
        if group.name == self._group:
            return
        await self.leave_group()
        await self._engine.init_group(
            name=group.name,
            host=group.host,
            port=group.port,
            rank=group.ranks[self._member_id],
            world_size=group.world_size,
            backend=group.backend,
        )
        self._group = group.name


async def follow_weights(
    broker: BrokerClient,
    receiver: WeightReceiver,
    serving: Serving,
    finished: asyncio.Event,
) -> None:
    """Receives every push addressed to this member until the run is finished."""
    seen = 0
    while not finished.is_set():
        news = await broker.watch_weights(seen, _WATCH_S)
        if news.finished:
            finished.set()
        # A broker that came back counts anew: of what it has announced nothing was seen here.
        seen = news.serial if news.serial >= seen else 0
        if news.update is not None and receiver.is_addressee(news.update):
            await _receive(broker, receiver, serving, news.update)


async def _receive(
    broker: BrokerClient, receiver: WeightReceiver, serving: Serving, update: WeightUpdate
) -> None:
    started = time.monotonic()
    try:
        await receiver.receive(update)
    except EngineError as error:
        logger.error(
            "push of version %d (attempt %d) failed, not serving until one succeeds: %s",
            update.version, update.attempt, error,
        )  # fmt: skip
        await serving.set(None)
        await receiver.leave_group()
        return
    await serving.set(Served(update.history, update.version))
    await broker.ack_weights(update.version, update.history)
    logger.info(
        "serving version %d after %.2f s (%d buckets)",
        update.version, time.monotonic() - started, len(update.buckets),
    )  # fmt: skip
