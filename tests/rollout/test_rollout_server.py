"""When an engine counts as lost, and how often it is started again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import EngineError
from common.restart_budget import RestartBudget
from rollout.engine import EngineInfo
from rollout.pool import ServerPool
from rollout.rollout_server import RolloutServer, RunningEngine, capacity, watch_health
from rollout.serving import Served, ServingState
from tests.rollout.support import run_config
from tests.waiting import LIMIT_S, until


class Engine:
    """Answers as it is told."""

    def __init__(self) -> None:
        self.reported: int | None = 3
        self.is_well = True
        self.asked_version = self.asked_health = 0

    async def version(self) -> int | None:
        self.asked_version += 1
        return self.reported

    async def is_healthy(self) -> bool:
        self.asked_health += 1
        return self.is_well


async def serving_version_3() -> ServingState:
    serving = ServingState()
    await serving.set(Served(0, 3))
    return serving


async def watch(engine: Engine, serving: ServingState) -> None:
    """Return with the error that it finds; reaching the limit is no error of the engine."""
    async with asyncio.timeout(LIMIT_S):
        await watch_health(engine, serving, 0.005)


async def assert_left_alone(engine: Engine, serving: ServingState) -> None:
    """Some looks find nothing wrong, more than it would take to give an engine up."""
    before = engine.asked_version
    watching = asyncio.create_task(watch_health(engine, serving, 0.005))
    await until(lambda: watching.done() or engine.asked_version > before + 10)
    assert not watching.done(), watching.exception()
    watching.cancel()


async def test_a_healthy_engine_is_left_alone():
    engine = Engine()
    await assert_left_alone(engine, await serving_version_3())
    assert engine.asked_health > 1


@pytest.mark.parametrize("state", ["paused", "no weights"])
async def test_health_is_not_asked_for_when_it_would_hang(state):
    engine, serving = Engine(), ServingState()
    if state == "paused":
        serving = await serving_version_3()
        serving.note_pause()
    engine.is_well = False
    await assert_left_alone(engine, serving)
    assert engine.asked_health == 0


async def test_an_engine_that_only_answers_is_lost_after_some_tries():
    engine = Engine()
    engine.is_well = False
    with pytest.raises(EngineError, match="answers but does not generate"):
        await watch(engine, await serving_version_3())
    assert engine.asked_health == 3


async def test_a_pause_that_comes_in_between_does_not_count():
    engine, serving = Engine(), await serving_version_3()

    async def unhealthy() -> bool:
        serving.note_pause()
        serving.note_resume()
        return False

    engine.is_healthy = unhealthy  # type: ignore[method-assign]
    await assert_left_alone(engine, serving)


async def test_an_engine_that_others_have_restarted_is_noticed():
    engine = Engine()
    engine.reported = None
    with pytest.raises(EngineError, match="it serves version None, not 3 as was pushed"):
        await watch(engine, await serving_version_3())


@pytest.mark.parametrize(("max_running", "expected"), [(None, 4), (12, 4), (11, 3), (2, 1)])
def test_a_server_gets_no_more_groups_than_it_can_run(tmp_path, max_running, expected):
    config = run_config(tmp_path, trajectories_per_sample=3, max_concurrent_groups=4)
    assert capacity(config, EngineInfo("cpu", 1, max_running)) == expected


async def test_weights_under_verification_are_no_trouble():
    """The engine has them already; that may take as long as several looks. Seen with SGLang."""
    engine, serving = Engine(), await serving_version_3()
    engine.reported = 4
    async with serving.held_back():
        await assert_left_alone(engine, serving)
        await serving.set(Served(0, 4))
    await assert_left_alone(engine, serving)


class Dying(RolloutServer):
    """Its engine dies as soon as it serves."""

    async def _serve(self, running: RunningEngine) -> None:
        self.gauges = lambda: {"serving_version": 3.0}
        raise EngineError("it died")


async def test_an_engine_that_has_died_is_told_of_no_more(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []

    @contextlib.asynccontextmanager
    async def started() -> AsyncIterator[RunningEngine]:
        told.append(member.gauges())
        yield RunningEngine("http://127.0.0.1:1")

    renderer = asyncio.get_running_loop().create_future()
    member = Dying(
        run_config(tmp_path), "rollout-0", started, ServerPool(), renderer, asyncio.Event(),
        asyncio.Event(), RestartBudget(1, first_pause_s=0.0),
    )  # fmt: skip
    with pytest.raises(EngineError, match="died more than 1 times"):
        await member.live()
    assert told == [{}, {}] and member.gauges() == {}
