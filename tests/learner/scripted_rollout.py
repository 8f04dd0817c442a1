"""A rollout process for tests: makes up responses and answers, receives weights for real and keeps
them.

It joins push groups as the embedded engine does, and after each push writes
<record>/<member>-<version>.safetensors.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from broker.client import BrokerClient, heartbeat_forever
from broker.protocol import Answer, AskedItem, Role
from common.config import RunConfig
from common.images import ImageStore
from common.rendering import Renderer
from common.types import WeightUpdate
from rollout.embedded.weights import UpdateGroup, parse_dtypes
from tests.tiny_world import make_group

TIMEOUT_S = 20.0
SHORT, LONG = 3, 9  # tokens of a response
_ZERO = 18  # token id of "0"


@dataclass(frozen=True)
class Script:
    """What a rollout does; `long_ones` are (history, version) with responses of LONG tokens."""

    die_at: int = -1  # version in whose push the process ends
    long_ones: frozenset[tuple[int, int]] = frozenset()
    is_uneven: bool = False  # every other response lacks a token
    keeps_copies: bool = True  # of weights that are measured
    answers: bool = True  # held-out questions
    right_until: int = -1  # version from which on the answers are wrong

    def lengths(self, history: int, version: int, number: int) -> list[int]:
        tokens = LONG if (history, version) in self.long_ones else SHORT
        return [tokens - (self.is_uneven and index % 2) for index in range(number)]


class Receiver:
    """Keeps what is pushed; ends the process in the middle of the push of version `die_at`."""

    def __init__(self, member_id: str, record: Path, die_at: int) -> None:
        self._member_id = member_id
        self._record = record
        self._die_at = die_at
        self._group: UpdateGroup | None = None
        self._name = ""

    def receive(self, update: WeightUpdate) -> bool:
        """False when the push failed: it will be announced again."""
        try:
            if update.source.name != self._name:
                self._join(update)
            if update.version == self._die_at:
                os._exit(9)
            self._receive(update)
        except RuntimeError:
            self._leave()
            return False
        return True

    def _receive(self, update: WeightUpdate) -> None:
        assert self._group is not None
        weights = {}
        for bucket in update.buckets:
            dtypes = parse_dtypes(bucket.dtypes)
            weights |= dict(self._group.receive_flat(bucket.names, dtypes, bucket.shapes))
        part = self._record / f".{self._member_id}-{update.version}"
        save_file(weights, part)
        part.rename(self._record / f"{self._member_id}-{update.version}.safetensors")

    def _join(self, update: WeightUpdate) -> None:
        self._leave()
        group, rank = update.source, update.recipients[self._member_id]
        self._group = UpdateGroup(
            group.host, group.port, rank, group.world_size, group.name, group.backend, TIMEOUT_S
        )
        self._name = group.name

    def _leave(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group, self._name = None, ""


async def serve(config: RunConfig, rank: int, record: Path, script: Script) -> None:
    member_id = f"rollout-{rank}"
    receiver = Receiver(member_id, record, script.die_at)
    renderer = Renderer(config.model.path)
    images = ImageStore(config.data.train.parent)
    seen, serving = 0, (0, -1)  # history and version
    pinned: list[int] = []  # versions of that history
    finished = asyncio.Event()
    async with BrokerClient(config.broker.address, member_id, Role.ROLLOUT) as broker:
        beat = asyncio.create_task(heartbeat_forever(broker, dict, 0.5, finished))
        while not finished.is_set():
            news = await broker.watch_weights(seen, 0.05)
            seen = news.serial
            if news.update is not None:
                history = news.update.history
                is_pinned = script.keeps_copies and news.update.is_measured
                pinned = pinned if history == serving[0] else []
                is_received = await asyncio.to_thread(receiver.receive, news.update)
                serving = (history, news.update.version if is_received else -1)
                if is_received:
                    pinned = [*pinned, news.update.version] if is_pinned else pinned
                    await broker.ack_weights(news.update.version, history, is_pinned)
            if serving[1] >= 0:
                await work(broker, config, renderer, images, script, *serving)
            if serving[1] >= 0 and script.answers:
                await answer(broker, script, renderer, pinned, *serving)
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
        await broker.goodbye()


async def work(
    broker: BrokerClient,
    config: RunConfig,
    renderer: Renderer,
    images: ImageStore,
    script: Script,
    history: int,
    version: int,
) -> None:
    leases = await broker.lease(4, version, 0.05, history)
    for lease in leases.leases:
        lengths = script.lengths(history, version, lease.num_trajectories)
        group = make_group(
            lease.sample, renderer, images, lease.group_id, lengths, version, lease.sampling_seed
        )
        await broker.submit(replace(group, attempt=lease.attempt))


async def answer(
    broker: BrokerClient,
    script: Script,
    renderer: Renderer,
    pinned: list[int],
    history: int,
    version: int,
) -> None:
    """Right ones, or made-up ones of which every third is cut."""
    lease = await broker.lease_answers(history, version, pinned, 8, 0.0)
    end = renderer.end_token_ids[0]
    is_right = lease.version <= script.right_until
    answers = [
        right(item, end) if is_right else made_up(item.index, lease.max_tokens, end)
        for item in lease.items
    ]
    if answers:
        await broker.submit_answers(lease.number, answers)


def right(item: AskedItem, end: int) -> Answer:
    """The digit that `tests.tiny_world` has made the answer, as `tests.tiny_model` writes it."""
    digit = int(item.sample.sample_id.removeprefix("s")) % 10
    tokens = np.array([_ZERO + digit, end], dtype=np.int32)
    return Answer(index=item.index, token_ids=tokens)


def made_up(index: int, most: int, end: int) -> Answer:
    """No digit."""
    is_cut = index % 3 == 0
    tokens = [7 + index % 11] * most if is_cut else [7 + index % 11, end]
    return Answer(index=index, token_ids=np.array(tokens[:most], dtype=np.int32), is_cut=is_cut)
