"""A learner for rollout tests: real broker client, real pushes, no training."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import torch

from broker.client import BrokerClient, Taken, heartbeat_forever
from broker.protocol import Role
from common.types import GroupAddress, WeightUpdate
from tests.rollout.trainer import Trainer, bucket_of, chunks, flat

WAIT_S = 60.0


@contextlib.asynccontextmanager
async def learner_at(address: str) -> AsyncIterator[tuple[BrokerClient, "LearnerPlayer"]]:
    """A learner that starts a run with the broker at `address` and tells it that it lives."""
    async with BrokerClient(address, "learner-0", Role.LEARNER) as broker:
        beats = asyncio.create_task(heartbeat_forever(broker, dict, 1.0, asyncio.Event()))
        try:
            resumed = await broker.resume(0)
            yield broker, LearnerPlayer(broker, resumed.history)
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)
        await broker.goodbye()


class LearnerPlayer:
    """Pushes given weights to every rollout server, in a group of its own each time."""

    def __init__(self, broker: BrokerClient, history: int) -> None:
        self._broker = broker
        self.history = history
        self._name = f"push-{secrets.token_hex(4)}"  # an engine may still know an earlier player's
        self._pushes = 0

    async def push(
        self,
        state: dict[str, torch.Tensor],
        version: int,
        *,
        attempt: int = 0,
        servers: int = 1,
        pause_mode: str = "retract",
        break_off: bool = False,
        is_measured: bool = False,
    ) -> None:
        """One push in two buckets; `break_off` dies between them."""
        members = await self._broker.watch_members(servers, WAIT_S)
        ranks = {member: rank for rank, member in enumerate(sorted(members.acknowledged), 1)}
        self._pushes += 1
        trainer = Trainer(f"{self._name}-{self._pushes}", 1 + len(ranks))
        parts = chunks(state, 2)
        group = GroupAddress(
            name=trainer.name,
            host="127.0.0.1",
            port=trainer.port,
            backend="gloo",
            world_size=1 + len(ranks),
        )
        update = WeightUpdate(
            version=version,
            history=self.history,
            attempt=attempt,
            recipients=ranks,
            source=group,
            buckets=tuple(bucket_of(part) for part in parts),
            pause_mode=pause_mode,
            is_measured=is_measured,
        )
        await self._broker.announce(update)
        await asyncio.to_thread(trainer.join)
        for part in parts[: 1 if break_off else None]:
            await asyncio.to_thread(trainer.send, [flat(part.values())])
        await asyncio.to_thread(trainer.leave)

    async def announce_what_nobody_can_join(
        self, state: dict[str, torch.Tensor], version: int, *, attempt: int
    ) -> None:
        """A push that fails in every server before its first bucket: the port is closed."""
        members = await self._broker.watch_members(1, WAIT_S)
        source = GroupAddress(name="none", host="127.0.0.1", port=1, backend="gloo", world_size=2)
        update = WeightUpdate(
            version=version,
            history=self.history,
            attempt=attempt,
            recipients=dict.fromkeys(members.acknowledged, 1),
            source=source,
            buckets=(bucket_of(state),),
        )
        await self._broker.announce(update)

    async def acknowledged(self, version: int, timeout_s: float = WAIT_S) -> None:
        """Return when every server has acknowledged `version`."""
        async with asyncio.timeout(timeout_s):
            while True:
                members = await self._broker.watch_members(1, 1.0)
                if set(members.acknowledged.values()) == {version}:
                    return
                await asyncio.sleep(0.05)

    async def take(self, step: int) -> Taken:
        batch = await self._broker.take(step, WAIT_S)
        assert batch.groups, f"no batch for step {step} within {WAIT_S} s"
        return batch
