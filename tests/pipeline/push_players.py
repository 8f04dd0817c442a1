"""Processes for the fault tests of a push: an engine and a learner that die where they are told.

Everything else about them is real: the embedded engine serves its endpoints, the learner pushes
with the real Publisher and probe. The weights of version v are a known function of v, so that the
learner can compare every log-prob that comes back with a plain forward pass by the weights that the
trajectory names.
"""

import asyncio
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiohttp import web

from broker.client import BrokerClient, heartbeat_forever
from broker.protocol import Role
from common.config import RunConfig
from common.dataset import read_samples
from common.group import Group
from common.http_gate import Gate
from common.images import ImageStore
from common.rendering import Renderer
from learner.model.student import load_student, prompt_positions
from learner.push import routes
from learner.push.buckets import Snapshot
from learner.push.expectations import Expectations
from learner.push.group import PushGroup
from learner.push.publisher import Publisher
from learner.push.pushed_weights import PushedWeights
from tests.rollout.support import reference_logprobs

NUM_BUCKETS = 3
CYCLE = 5  # versions v and v + CYCLE have equal weights
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def die(how: str) -> None:
    os.kill(os.getpid(), SIGNALS[how])


# ---- engine --------------------------------------------------------------------------------------
def run_engine(checkpoint: str, port: int, timeout_s: float, die_at: dict | None, log: str) -> None:
    """The embedded engine, with POST /test/die_at {"path", "when", "how"} beside its endpoints."""
    _log_to(log)
    torch.set_num_threads(1)
    from rollout.embedded.__main__ import parse_arguments, serve
    from rollout.embedded.server import EngineServer

    original = EngineServer.application
    switch = DeathSwitch(die_at)

    def application(self: EngineServer, gate: Gate, **options: bool) -> web.Application:
        app = original(self, gate, **options)
        app.middlewares.append(switch.middleware)
        app.router.add_post("/test/die_at", switch.set)
        return app

    EngineServer.application = application  # type: ignore[method-assign]
    arguments = parse_arguments(
        ["--model-path", checkpoint, "--port", str(port), "--threads", "1", "--without-key",
         "--update-timeout-s", str(timeout_s)]
    )  # fmt: skip
    asyncio.run(serve(arguments, asyncio.Event()))


class DeathSwitch:
    """Ends this process before, during or after its next request to a path."""

    def __init__(self, die_at: dict | None) -> None:
        self._die_at = die_at

    async def set(self, request: web.Request) -> web.Response:
        self._die_at = await request.json()
        return web.json_response({})

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def maybe_die(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            order = self._die_at
            if order is None or request.path != order["path"]:
                return await handler(request)
            order["skip"] = order.get("skip", 0) - 1
            if order["skip"] >= 0:
                return await handler(request)
            if order["when"] == "before":
                die(order["how"])
            if order["when"] == "during":
                asyncio.get_running_loop().call_later(0.002, die, order["how"])
            response = await handler(request)
            if order["when"] == "after":
                die(order["how"])
            return response

        return maybe_die


# ---- learner -------------------------------------------------------------------------------------
def weights_of(base: dict[str, torch.Tensor], version: int) -> dict[str, torch.Tensor]:
    """Weights that give other log-probs than those of the versions near it."""
    factor = 1 + 0.15 * (version % CYCLE)
    return {name: tensor * factor for name, tensor in base.items()}


class BrokerLine:
    """The publisher's line to the broker, and this thread's: an event loop on a thread."""

    def __init__(self, config: RunConfig) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = BrokerClient(config.broker.address, "learner-0", Role.LEARNER)
        self._run(self._client.__aenter__(), 30)
        beat = heartbeat_forever(self._client, dict, 0.3, asyncio.Event())
        self._beats = asyncio.run_coroutine_threadsafe(beat, self._loop)

    def _run(self, work: Any, timeout_s: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def call(self, request: Callable[[BrokerClient], Awaitable[Any]], timeout_s: float) -> Any:
        return self._run(request(self._client), timeout_s)

    def cancel_calls(self) -> None:
        pass


class DyingGroup(PushGroup):
    """A push group whose process ends in the middle of a push."""

    where: tuple[str, str] | None = None  # (point, how)

    def _reach(self, point: str) -> None:
        if DyingGroup.where is not None and DyingGroup.where[0] == point:
            die(DyingGroup.where[1])

    def join(self) -> None:
        self._reach("before join")
        if DyingGroup.where is not None and DyingGroup.where[0] == "during join":
            threading.Timer(0.003, die, (DyingGroup.where[1],)).start()
        super().join()
        self._sent = 0
        self._reach("after join")

    def broadcast(self, content: torch.Tensor) -> None:
        self._reach(f"before bucket {self._sent}")
        if DyingGroup.where is not None and DyingGroup.where[0] == f"during bucket {self._sent}":
            threading.Timer(0.0005, die, (DyingGroup.where[1],)).start()
        super().broadcast(content)
        self._reach(f"after bucket {self._sent}")
        self._sent = (self._sent + 1) % NUM_BUCKETS


def run_learner(
    config: RunConfig, step: int, num_servers: int, die_in: int, where: tuple[str, str], log: str
) -> None:
    """Pushes, takes, checks and acknowledges for ever; dies in its push number `die_in`.

    Exit code 3: a log-prob is not that of the weights that its trajectory names.
    """
    _log_to(log)
    torch.set_num_threads(1)
    routes.PushGroup = DyingGroup  # type: ignore[misc,assignment]
    renderer = Renderer(config.model.path)
    model = load_student(config.model, torch.device("cpu"))
    base = {name: tensor.clone() for name, tensor in PushedWeights(model).items()}
    references = [_model_with(config, weights_of(base, version)) for version in range(CYCLE)]
    positions = functools.partial(prompt_positions, model)
    assert config.data.train is not None
    images = ImageStore(config.data.train.parent)
    samples = {sample.sample_id: sample for sample in read_samples(config.data.train)[0]}
    line = BrokerLine(config)
    resumed = line.call(lambda broker: broker.resume(step), 60)
    total_mib = sum(tensor.nbytes for tensor in base.values()) / 2**20
    snapshot = Snapshot(PushedWeights(model), torch.float32, total_mib / NUM_BUCKETS * 1.2)
    assert len(snapshot.buckets) == NUM_BUCKETS
    checks = Expectations(config, model, renderer, positions)
    with Publisher(
        config.weights, line, resumed.history, snapshot, num_servers, 60, 0.3, checks=checks
    ) as publisher:
        pushes = 0
        while True:
            publisher.wait()
            for name, tensor in PushedWeights(model).items():
                tensor.copy_(weights_of(base, step)[name])
            DyingGroup.where = where if pushes == die_in else None
            publisher.push(step)
            pushes += 1
            if pushes == die_in + 1 and die_in >= 0:
                publisher.wait()
            for group in _batch(line, publisher, step + 1):
                image = images.read_bytes(samples[group.sample_id].image)
                if (problem := _problem(group, step, references, renderer, image)) is not None:
                    print("WRONG", problem, file=sys.stderr, flush=True)
                    os._exit(3)
            line.call(lambda broker, step=step: broker.ack(step + 1), 30)
            step += 1


def _model_with(config: RunConfig, weights: dict[str, torch.Tensor]) -> Any:
    model = load_student(config.model, torch.device("cpu")).eval()
    for name, tensor in PushedWeights(model).items():
        tensor.copy_(weights[name])
    return model


def _batch(line: BrokerLine, publisher: Publisher, step: int) -> tuple[Group, ...]:
    while True:
        batch = line.call(lambda broker: broker.take(step, 0.5), 30)
        if batch.groups:
            return batch.groups  # type: ignore[no-any-return]
        publisher.push_again_if_behind()


def _problem(
    group: Group, version: int, references: list[Any], renderer: Renderer, image: bytes
) -> str | None:
    """What is wrong with a group that trains `version`; None: nothing."""
    banned = tuple(renderer.vision_token_ids)
    for trajectory in group.trajectories:
        if trajectory.newest_version > version:
            return f"{group.group_id}: version {trajectory.newest_version}, training {version}"
        for span in trajectory.version_spans:
            expected = reference_logprobs(
                references[span.version % CYCLE], renderer, image,
                trajectory.response_token_ids.tolist(), banned=banned,
            )[span.start : span.end]  # fmt: skip
            found = trajectory.rollout_logprobs[span.start : span.end]
            if not np.allclose(found, expected, atol=5e-5):
                return json.dumps(
                    {
                        "group": group.group_id, "span": repr(span),
                        "cache_version": trajectory.cache_version,
                        "difference": float(np.abs(found - expected).max()),
                    }
                )  # fmt: skip
    return None


def _log_to(log: str) -> None:
    import logging

    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
