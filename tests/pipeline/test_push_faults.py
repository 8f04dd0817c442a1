"""Kill a server or the learner in every phase of a push: no hang, no half-updated server serves.

One broker, two rollout members with their engines as processes, one learner process that pushes a
known weight function of the version and compares every log-prob that comes back. After each death
the run must go on: newer versions are trained on, and every server serves the newest.
"""

import asyncio
import contextlib
import json
import multiprocessing
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from broker.ledger.entry import Rules
from common.config import RunConfig
from common.config_cli import build
from common.dataset import read_samples
from common.errors import EngineError
from common.rendering import Renderer
from common.restart_budget import RestartBudget
from common.source import SampleSource
from rollout.engine_process import free_port
from rollout.pool import ServerPool
from rollout.rollout_server import RolloutServer, RunningEngine
from tests.broker.support import Running, running_broker
from tests.pipeline import push_players
from tests.repetitions import repeated
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_world import make_dataset
from tests.waiting import until

TIMES = repeated(some=3, full=20)  # at least once before, during and after
TIMEOUT_S = 3.0  # of one phase of a push
MEMBER_TIMEOUT_S = 2.0
LIMIT_S = 60.0  # until a run must go on after a death; it takes a few seconds
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.learner.preloaded", "tests.pipeline.push_players"])
UPDATE = "/update_weights_from_distributed"
SERVER_PHASES = {
    "join": {"path": "/init_weights_update_group"},
    "pause": {"path": "/pause_generation"},
    "begin": {"path": "/begin_weight_update"},
    "first bucket": {"path": UPDATE},
    "second bucket": {"path": UPDATE, "skip": 1},
    "last bucket": {"path": UPDATE, "skip": 2},
    "end": {"path": "/end_weight_update"},
    "checksums": {"path": "/weights_checker"},
    "resume": {"path": "/continue_generation"},
    "probe": {"path": "/generate"},
}
MOMENTS = ("before", "during", "after")
LEARNER_POINTS = (
    "before join", "during join", "before bucket 0", "during bucket 0", "during bucket 1",
    "during bucket 2", "after bucket 2",
)  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Engines:
    """The engine processes of the members, one each; a member starts its own anew."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self.current: dict[str, BaseProcess] = {}
        self.urls: dict[str, str] = {}
        self.next_death: dict[str, dict[str, Any]] = {}  # told to the next engine from its start

    @contextlib.asynccontextmanager
    async def started(self, name: str) -> AsyncIterator[RunningEngine]:
        port = free_port("127.0.0.1")
        process = FORKS.Process(
            target=push_players.run_engine,
            args=(
                self._config.model.path, port, TIMEOUT_S, self.next_death.pop(name, None),
                str(self._folder / f"{name}.log"),
            ),
        )  # fmt: skip
        process.start()
        url = f"http://127.0.0.1:{port}"
        self.current[name], self.urls[name] = process, url
        try:
            await _answers(url, process)
            yield RunningEngine(url, lambda: _death_of(process))
        finally:
            process.kill()
            await asyncio.to_thread(process.join)

    async def tell(self, name: str, order: dict[str, Any]) -> None:
        await asyncio.to_thread(_post, self.urls[name] + "/test/die_at", order)


class Learner:
    """The learner's process."""

    def __init__(self, config: RunConfig, log: Path) -> None:
        self._config = config
        self._log = log
        self.process: BaseProcess | None = None

    def start(self, step: int, die_in: int = -1, where: tuple[str, str] = ("", "")) -> None:
        arguments = (self._config, step, 2, die_in, where, str(self._log))
        self.process = FORKS.Process(target=push_players.run_learner, args=arguments)
        self.process.start()

    def check(self) -> None:
        assert self.process is not None
        assert self.process.exitcode is None, self._log.read_text()[-3000:]

    async def ended(self) -> int | None:
        assert self.process is not None
        await asyncio.to_thread(self.process.join, LIMIT_S)
        return self.process.exitcode

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


class System:
    """A broker, two members with engines, and what has been seen of them."""

    def __init__(self, broker: Running, engines: Engines, learner: Learner) -> None:
        self.broker = broker
        self.engines = engines
        self.learner = learner
        self.recovery_s: list[float] = []

    @property
    def version(self) -> int:
        return self.broker.service.ledger.version

    def served(self) -> dict[str, int]:
        servers = self.broker.service.ledger.servers.all()
        return {name: servers[name, life] for name, life in servers}

    def report(self, what: str) -> None:
        """One line for `pytest -s`; starts a new list."""
        times, self.recovery_s = sorted(self.recovery_s), []
        median, longest = times[len(times) // 2], times[-1]
        print(f"{what}: {len(times)} times, gone on after {median:.1f} s, at most {longest:.1f} s")

    async def goes_on(self, steps: int = 2) -> None:
        """Return when `steps` more are trained and both servers serve what came after."""
        began, target = time.monotonic(), self.version + steps
        while True:
            self.learner.check()
            served = self.served()
            if self.version >= target and len(served) == 2 and min(served.values()) >= target - 1:
                self.recovery_s.append(time.monotonic() - began)
                return
            assert time.monotonic() < began + LIMIT_S, f"hangs: {self.version} {served}"
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@contextlib.asynccontextmanager
async def running_system(tmp_path: Path, checkpoint: Path) -> AsyncIterator[System]:
    train = make_dataset(tmp_path / "data", 8)
    samples, _ = read_samples(train)
    rules = Rules(2, 1, 2, 30.0, 1000, None)
    source = SampleSource(samples, epochs=100_000, seed=0)
    async with running_broker(
        rules, source, images=train.parent, member_timeout_s=MEMBER_TIMEOUT_S
    ) as broker:
        config = make_config(checkpoint, train, broker.address)
        engines = Engines(config, tmp_path)
        learner = Learner(config, tmp_path / "learner.log")
        renderer = asyncio.get_running_loop().create_future()
        renderer.set_result(Renderer(str(checkpoint)))
        stop, finished, pool = asyncio.Event(), asyncio.Event(), ServerPool()
        system = System(broker, engines, learner)
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(2):
                    name = f"rollout-{number}"
                    member = RolloutServer(
                        config, name, lambda n=name: engines.started(n), pool, renderer, stop,
                        finished, RestartBudget(10**6, longest_pause_s=0.05),
                    )  # fmt: skip
                    tasks.create_task(member.live())
                learner.start(0)
                await system.goes_on()
                yield system
                stop.set()
        finally:
            learner.close()


def make_config(checkpoint: Path, train: Path, address: str) -> RunConfig:
    return build(
        {
            "model": {"path": str(checkpoint), "dtype": "float32", "gradient_checkpointing": False},
            "data": {"train": str(train)},
            "broker": {
                "address": address, "max_staleness": 1, "member_timeout_s": MEMBER_TIMEOUT_S,
            },
            "rollout": {
                "engine": "embedded", "trajectories_per_sample": 2, "max_response_tokens": 5,
                "max_concurrent_groups": 2, "servers": 2,
            },
            "learner": {"groups_per_step": 2, "device": "cpu"},
            "weights": {
                "dtype": "float32", "timeout_s": TIMEOUT_S, "max_attempts": 10,
                "verify_first": 10**6,
            },
            "cluster": {"drain_s": 2.0},
        }
    )  # fmt: skip


async def _answers(url: str, process: BaseProcess) -> None:
    while True:
        if not process.is_alive():
            raise EngineError(f"the engine died ({process.exitcode})")
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_get, url + "/model_info")
            return
        await asyncio.sleep(0.02)


async def _death_of(process: BaseProcess) -> None:
    ended = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    loop.add_reader(process.sentinel, lambda: ended.done() or ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(process.sentinel)
    raise EngineError(f"the engine died ({process.exitcode})")


def _get(url: str) -> None:
    urllib.request.urlopen(url, timeout=5).close()


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, data=json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=5).close()


@pytest.mark.minutes(1.5)
async def test_a_server_that_is_killed_in_a_push_costs_only_itself(tmp_path, checkpoint):
    async with running_system(tmp_path, checkpoint) as system:
        for phase, order in SERVER_PHASES.items():
            for time_number in range(TIMES):
                name, when = f"rollout-{time_number % 2}", MOMENTS[time_number % 3]
                await _die_in_push(system, name, {**order, "when": when, "how": "kill"})
                await system.goes_on()
            system.report(f"server killed at {phase}")


async def test_a_server_that_falls_silent_in_a_push_is_started_anew(tmp_path, checkpoint):
    async with running_system(tmp_path, checkpoint) as system:
        for phase in ("join", "pause", "second bucket", "end", "probe"):
            order = {**SERVER_PHASES[phase], "when": "during", "how": "stop"}
            await _die_in_push(system, "rollout-1", order)
            await system.goes_on()
            system.report(f"server silent at {phase}")


async def _die_in_push(system: System, name: str, order: dict[str, Any]) -> None:
    doomed = system.engines.current[name]
    if order["path"] == SERVER_PHASES["join"]["path"]:  # a group forms when a server comes back
        system.engines.next_death[name] = order
        doomed.kill()
        await until(lambda: system.engines.current[name] is not doomed)
        doomed = system.engines.current[name]
    else:
        await system.engines.tell(name, order)
    deadline = time.monotonic() + LIMIT_S
    while system.engines.current[name] is doomed:
        system.learner.check()
        assert time.monotonic() < deadline, f"{name} lives on: {order}"
        await asyncio.sleep(0.01)


@pytest.mark.minutes(2)
async def test_a_learner_that_is_killed_in_a_push_leaves_servers_that_recover(tmp_path, checkpoint):
    async with running_system(tmp_path, checkpoint) as system:
        for point in LEARNER_POINTS:
            for time_number in range(TIMES):
                system.learner.close()
                die_in = 0 if "join" in point else 1 + time_number % 2
                system.learner.start(system.version, die_in, (point, "kill"))
                assert await system.learner.ended() == -9, point
                system.learner.start(system.version)
                await system.goes_on()
            system.report(f"learner killed {point}")


async def test_a_learner_that_falls_silent_in_a_push_leaves_servers_that_recover(
    tmp_path, checkpoint
):
    async with running_system(tmp_path, checkpoint) as system:
        for point in ("during join", "before bucket 1"):
            system.learner.close()
            system.learner.start(system.version, 0 if "join" in point else 1, (point, "stop"))
            await asyncio.sleep(TIMEOUT_S + 3)  # the servers give it up within that
            system.learner.close()
            system.learner.start(system.version)
            await system.goes_on()
            system.report(f"learner silent {point}")
