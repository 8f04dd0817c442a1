"""One repetition of each side, on the same engine server."""

import asyncio
import os
import time
import urllib.request
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import RunConfig
from common.config_cli import build
from learner.model.student import load_student
from learner.push.pushed_weights import PushedWeights
from rollout.engine import GroupRequest
from tests.bench.broker_process import running_broker
from tests.bench.generating.alone import drive_alone
from tests.bench.generating.ours import roll_out
from tests.bench.piped import PipedChild, children
from tests.rollout.learner_player import learner_at

_START_S = 120.0
_GENERATE_S = 1800.0
_TAKE_WAIT_S = 30.0  # how long the broker may hold the question


@dataclass(frozen=True)
class Generated:
    tokens: int
    seconds: float
    cpu_s: float  # of the client's process: the rollout server, or the plain client

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def weights_of(config: RunConfig) -> dict[str, Tensor]:
    """What the learner would push at version 0."""
    from transformers.utils import logging as transformers_logging  # after common's patches

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    transformers_logging.disable_progress_bar()
    return dict(PushedWeights(load_student(config.model, torch.device("cpu"))))


def measure_alone(requests: list[GroupRequest], concurrent: int, url: str) -> Generated:
    with children(drive_alone, [(requests, concurrent, url)]) as (client,):
        assert client.answer(_START_S) == "ready"
        flush_cache(url)
        client.say("go")
        started = time.monotonic()
        tokens, cpu_s = client.answer(_GENERATE_S)
        return Generated(tokens, time.monotonic() - started, cpu_s)


def measure_ours(config: RunConfig, url: str, weights: dict[str, Tensor]) -> Generated:
    """From the moment that a member with weights may lease until the learner has its batch."""
    with running_broker(config) as address:
        tree = config.model_dump()
        tree["broker"]["address"] = address
        tree["rollout"]["engine_urls"] = [url]
        with children(roll_out, [(build(tree),)]) as (rollout,):
            assert rollout.answer(_START_S) == "ready"
            return asyncio.run(_measure(address, url, rollout, weights))


async def _measure(
    address: str, url: str, rollout: PipedChild, weights: dict[str, Tensor]
) -> Generated:
    async with learner_at(address) as (broker, learner):
        await learner.push(weights, 0)
        await learner.acknowledged(0)
        await asyncio.to_thread(flush_cache, url)
        rollout.say("go")
        started = time.monotonic()
        async with asyncio.timeout(_GENERATE_S):
            while not (batch := await broker.take(1, _TAKE_WAIT_S)).groups:
                pass
        seconds = time.monotonic() - started
        rollout.say("over")
        cpu_s = await asyncio.to_thread(rollout.answer, _START_S)
        await broker.finish("measured")
    tokens = sum(len(t.response_token_ids) for group in batch.groups for t in group.trajectories)
    return Generated(tokens, seconds, cpu_s)


def flush_cache(url: str) -> None:
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/flush_cache", data=b""), timeout=30
    ).close()
