"""A rollout server and a learner as real processes without a model, to be killed at any moment.

    python -m tests.broker.proof.players rollout NAME FOLDER
    python -m tests.broker.proof.players learner FOLDER

FOLDER is the run's: broker.json says where the broker is. The learner's weights are the list of
groups that it was trained on; a push is a file of them, a checkpoint too, renamed into place. Token
0 of a response is a checksum of the weights that made it, token 1 their version.
"""

import asyncio
import json
import os
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from broker.client import BrokerClient, heartbeat_forever
from broker.protocol import Role
from common.group import Group, Responses, Trajectory, VersionSpan
from common.types import FinishReason, GroupAddress, GroupLease, WeightBucket, WeightUpdate
from tests.seen import SEEN

Weights = list[list[str]]  # groups by step
STEP_S = 0.5  # of training, until the harness is done with killing
GENERATION_S = 0.1
HURRY = "hurry"  # a file: train as fast as you can


def client(folder: Path, name: str, role: Role) -> BrokerClient:
    address = json.loads((folder / "broker.json").read_text())["address"]
    return BrokerClient(address, name, role, request_timeout_s=1.0, tries=60)


def checksum(weights: Weights) -> int:
    return zlib.crc32(json.dumps(weights).encode()) & 0x7FFFFFFF


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(value))
    os.replace(beside, path)


def push_file(folder: Path, update: WeightUpdate) -> Path:
    name = f"{update.source.port}-{update.history}-{update.version}-{update.attempt}.json"
    return folder / "pushes" / name


# ---- rollout -------------------------------------------------------------------------------------
async def roll_out(name: str, folder: Path) -> None:
    serving: dict[str, Any] = {}
    is_serving = asyncio.Event()

    async def follow_weights(broker: BrokerClient) -> None:
        serial = 0
        while True:
            news = await broker.watch_weights(serial, wait_s=5)
            serial = news.serial
            if news.update is not None:
                weights = json.loads(push_file(folder, news.update).read_text())
                serving.update(weights=weights, update=news.update)
                is_serving.set()
                await broker.ack_weights(news.update.version, news.update.history)

    async def serve(broker: BrokerClient, lease: GroupLease) -> None:
        weights = serving["weights"]
        await asyncio.sleep(GENERATION_S * random.random())
        await broker.submit(make_group(lease, weights))

    async with client(folder, name, Role.ROLLOUT) as broker, asyncio.TaskGroup() as tasks:
        tasks.create_task(heartbeat_forever(broker, dict, 0.5, asyncio.Event()))
        tasks.create_task(follow_weights(broker))
        await is_serving.wait()
        while True:
            update = serving["update"]
            reply = await broker.lease(4, update.version, 5, update.history)
            for lease in reply.leases:
                tasks.create_task(serve(broker, lease))


def make_group(lease: GroupLease, weights: Weights) -> Group:
    version = len(weights)
    tokens = np.array([checksum(weights), version, *range(30)], dtype=np.int32)
    trajectories = tuple(
        Trajectory(
            index=index,
            response_token_ids=tokens,
            rollout_logprobs=np.full(len(tokens), -1.0, dtype=np.float32),
            version_spans=(VersionSpan(version=version, start=0, end=len(tokens)),),
            cache_version=version,
            finish_reason=FinishReason.STOP,
        )
        for index in range(lease.num_trajectories)
    )
    return Group(
        group_id=lease.group_id,
        attempt=lease.attempt,
        sample_id=lease.sample.sample_id,
        view=SEEN,
        prompt_token_ids=np.arange(3, dtype=np.int32),
        num_prompt_tokens=5,
        responses=Responses.of(trajectories),
    )


# ---- learner -------------------------------------------------------------------------------------
async def learn(folder: Path) -> None:
    kept = sorted(folder.glob("checkpoint-*.json"))
    weights: Weights = json.loads(kept[-1].read_text()) if kept else []
    async with client(folder, "learner-0", Role.LEARNER) as broker, asyncio.TaskGroup() as tasks:
        beats = tasks.create_task(heartbeat_forever(broker, dict, 0.5, asyncio.Event()))
        history = (await broker.resume(len(weights))).history
        pushes = tasks.create_task(push_forever(broker, folder, weights, history))
        while True:
            batch = await broker.take(len(weights) + 1, 5)
            if batch.exhausted:
                break
            if not batch.groups:
                continue
            for group in batch.groups:
                check_group(group, weights, broker.welcome.max_staleness)
            if not (folder / HURRY).exists():
                await asyncio.sleep(STEP_S)
            await broker.ack(batch.step)
            weights.append([group.group_id for group in batch.groups])
            if random.random() < 0.5:
                await checkpoint(broker, folder, weights)
        await checkpoint(broker, folder, weights)
        write_json(folder / "final.json", weights)
        pushes.cancel()
        beats.cancel()


def check_group(group: Group, weights: Weights, max_staleness: int) -> None:
    """Weights of this very history made it, and none that are too old."""
    for trajectory in group.trajectories:
        made_by, version = trajectory.response_token_ids[:2].tolist()
        assert 0 <= len(weights) - version <= max_staleness, (len(weights), version)
        assert made_by == checksum(weights[:version]), "weights of an undone history"


async def checkpoint(broker: BrokerClient, folder: Path, weights: Weights) -> None:
    kept = sorted(folder.glob("checkpoint-*.json"))
    oldest = int(kept[0].stem.split("-")[1]) if kept else 0
    await broker.commit(len(weights), oldest)
    write_json(folder / f"checkpoint-{len(weights):06d}.json", weights)
    for path in sorted(folder.glob("checkpoint-*.json"))[:-2]:
        path.unlink()


async def push_forever(broker: BrokerClient, folder: Path, weights: Weights, history: int) -> None:
    """Announce the newest weights to every live server that is without them."""
    bucket = WeightBucket(names=("w",), dtypes=("float32",), shapes=((1,),), num_bytes=4)
    attempt = 0
    while True:
        members = await broker.watch_members(1, 5)
        version = len(weights)
        behind = [name for name, served in members.acknowledged.items() if served < version]
        if behind:
            attempt += 1
            ranks = {name: rank for rank, name in enumerate(behind, start=1)}
            port = os.getpid() % 60000 + 1
            group = GroupAddress(
                name="files", host="h", port=port, backend="gloo", world_size=1 + len(ranks)
            )
            update = WeightUpdate(
                version=version,
                history=history,
                attempt=attempt,
                recipients=ranks,
                source=group,
                buckets=(bucket,),
            )
            write_json(push_file(folder, update), weights[:version])
            await broker.announce(update)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1] == "rollout":
        asyncio.run(roll_out(sys.argv[2], Path(sys.argv[3])))
    else:
        asyncio.run(learn(Path(sys.argv[2])))
