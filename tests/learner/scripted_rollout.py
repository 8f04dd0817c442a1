"""A rollout process for tests: makes up responses, receives weights for real and keeps them.

    python -m tests.learner.scripted_rollout --config FILE --record DIR [--die-at VERSION]

It joins push groups as SGLang does, and writes DIR/<member>-<version>.safetensors after each push.
"""

import argparse
import asyncio
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed import distributed_c10d, rendezvous

from broker.client import BrokerClient
from broker.protocol import Role
from common.config_cli import load
from common.images import ImageStore
from common.rendering import Renderer
from common.types import WeightUpdate
from tests.tiny_world import make_group

TIMEOUT = timedelta(seconds=20)


class Receiver:
    def __init__(self, member_id: str, record: Path, die_at: int) -> None:
        self._member_id = member_id
        self._record = record
        self._die_at = die_at
        self._name = ""

    def receive(self, update: WeightUpdate) -> None:
        if update.group.name != self._name:
            self._join(update)
        if update.version == self._die_at:
            os._exit(9)
        weights = {}
        for bucket in update.buckets:
            content = torch.empty(bucket.num_bytes, dtype=torch.uint8)
            dist.broadcast(content, src=0, group=self._group)
            offset = 0
            for name, dtype, shape in zip(bucket.names, bucket.dtypes, bucket.shapes, strict=True):
                kind = getattr(torch, dtype)
                end = offset + kind.itemsize * torch.Size(shape).numel()
                weights[name] = content[offset:end].clone().view(kind).reshape(shape)
                offset = end
        part = self._record / f".{self._member_id}-{update.version}"
        save_file(weights, part)
        part.rename(self._record / f"{self._member_id}-{update.version}.safetensors")

    def _join(self, update: WeightUpdate) -> None:
        group, rank = update.group, update.group.ranks[self._member_id]
        if self._name:
            dist.destroy_process_group(self._group)
        url = f"tcp://{group.host}:{group.port}"
        store, _, size = next(rendezvous(url, rank, group.world_size, timeout=TIMEOUT))
        store.set_timeout(TIMEOUT)
        self._group, _ = distributed_c10d._new_process_group_helper(
            size, rank, [], dist.Backend(group.backend), dist.PrefixStore(group.name, store),
            group_name=group.name, timeout=TIMEOUT,
        )  # fmt: skip
        distributed_c10d._world.pg_group_ranks[self._group] = {i: i for i in range(size)}
        self._name = group.name


async def serve(options: argparse.Namespace, arguments: list[str]) -> None:
    config = load(arguments)
    member_id = f"rollout-{os.environ.get('RANK', '0')}"
    receiver = Receiver(member_id, options.record, options.die_at)
    renderer = Renderer(config.model.path)
    images = ImageStore(config.data.train.parent)
    version, attempt = -1, -1
    async with BrokerClient(config.broker.address, member_id, Role.ROLLOUT) as broker:
        finished = False
        while not finished:
            news = await broker.watch_weights(version, attempt, 0.1 if version >= 0 else 5.0)
            finished = news.finished
            if news.update is not None:
                version, attempt = news.update.version, news.update.attempt
                try:
                    await asyncio.to_thread(receiver.receive, news.update)
                except RuntimeError:
                    continue  # the push failed for somebody else: it will be announced again
                await broker.ack_weights(version)
            if version < 0 or finished:
                continue
            leases = await broker.lease(2, version, 0.1)
            for lease in leases.leases:
                group = make_group(
                    lease.sample, renderer, images, lease.group_id,
                    [3] * lease.num_trajectories, version, lease.sampling_seed,
                )  # fmt: skip
                await broker.submit(group.model_copy(update={"attempt": lease.attempt}))
        await broker.goodbye()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--die-at", type=int, default=-1)
    asyncio.run(serve(*parser.parse_known_args()))
