"""The supervisor over scripts: ends in an order that nobody asked for, and starts that wait."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import deploy.supervision.start_requests
import deploy.supervision.supervisor
from common.config import RunConfig
from common.errors import ConfigError
from deploy.cluster.process_specs import ProcessSpec
from deploy.supervision.process_actor import StartRequest
from deploy.supervision.process_table import read_processes
from tests.deploy.supervision.support import (
    BROKER,
    FAILING,
    SUMMARY,
    WAITING_LEARNER,
    Scripts,
    Stage,
    status,
)
from tests.waiting import LIMIT_S, until

# Stops as it is told; what it has to write takes longer than the broker waits for.
SLOW_TO_WRITE = SUMMARY.replace(
    "lambda *_: end(True)",
    "leave",
).replace(
    "signal.signal(signal.SIGTERM",
    """
def leave(*_):
    (folder / "left").touch()
    while not (folder / "written").exists():
        time.sleep(0.02)
    end(True)
signal.signal(signal.SIGTERM""",
)
UNTIL_GO = "while not (folder / 'go').exists():\n    time.sleep(0.02)\nend(False)"
LEAVING_BROKER = BROKER.replace(
    'while not (folder / "finished").exists()',
    'while not ((folder / "finished").exists() or (folder / "left").exists())',
)


def states(folder: Path) -> dict[str, str]:
    return {entry.name: entry.state for entry in read_processes(folder)}


async def test_a_broker_that_has_said_goodbye_to_all_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner that somebody stopped still writes its checkpoint, for longer than we wait."""
    monkeypatch.setattr(deploy.supervision.supervisor, "_STATUS_LAG_S", 0.05)
    learner = SLOW_TO_WRITE + UNTIL_GO
    stage = Stage(tmp_path, monkeypatch, learner=learner, broker=LEAVING_BROKER)
    run = stage.run()
    await stage.until_listening("learner-0", "rollout-0")
    os.kill(stage.entry("learner-0").pid, signal.SIGTERM)
    await until(lambda: "broker" not in stage.alive())
    await asyncio.sleep(0.3)  # in which the broker would be started again
    (tmp_path / "written").touch()
    await until(lambda: any("told the learner to stop" in line for line in stage.reported))
    (tmp_path / "left").unlink()
    await stage.until_up("learner-0", again=1)
    (tmp_path / "go").touch()
    assert await run is True
    assert [p.name for p in stage.started].count("broker") == 2
    assert stage.entry("broker").restarts == 0
    assert len(stage.reported) == 1


async def test_a_learner_that_fails_after_the_broker_has_left_begins_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it would look for that broker for ever."""
    learner = SLOW_TO_WRITE.replace("end(True)", "sys.exit(3)")
    learner += UNTIL_GO
    stage = Stage(tmp_path, monkeypatch, learner=learner, broker=LEAVING_BROKER)
    run = stage.run()
    await stage.until_listening("learner-0", "rollout-0")
    stage.all_join()
    os.kill(stage.entry("learner-0").pid, signal.SIGTERM)
    await until(lambda: "broker" not in stage.alive())
    await asyncio.sleep(0.3)  # in which the broker would be started again
    (tmp_path / "written").touch()
    await until(lambda: any("after the broker had left" in line for line in stage.reported))
    (tmp_path / "left").unlink()
    await until(lambda: [p.name for p in stage.started].count("learner-0") == 2)
    (tmp_path / "go").touch()
    assert await run is True
    assert [end.why for end in stage.entry("learner-0").ends] == ["failed with exit code 3"]


async def test_a_resumed_run_that_was_over_is_watched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the learner has said where it goes on, its broker may tell of the end before."""
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0", "rollout-1")
    stage.supervisor.update(status([], is_finished=True), 0.0)
    with pytest.raises(ConfigError, match="being ended"):
        stage.supervisor.scale(3)
    stage.supervisor.update(status([]), 0.0)
    stage.kill("rollout-1")
    await stage.until_up("rollout-1", again=1)
    stage.supervisor.scale(3)
    await stage.until_up("rollout-2")
    (tmp_path / "go").touch()
    assert await run is True


async def test_nobody_is_scaled_when_the_run_is_over_or_beyond_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="no more than 1000"):
        stage.supervisor.scale(10**9)
    assert await stage.run() is True
    with pytest.raises(ConfigError, match="being ended"):
        stage.supervisor.scale(3)
    assert stage.supervisor.servers == 1


async def test_the_end_does_not_wait_for_a_server_without_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(
        tmp_path,
        monkeypatch,
        servers=2,
        learner=WAITING_LEARNER,
        cluster={"drain_s": 600.0, "place_timeout_s": 600.0},
    )
    stage.full.add("rollout-1")
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    (tmp_path / "go").touch()
    async with asyncio.timeout(LIMIT_S):
        assert await run is True
    assert set(states(tmp_path).values()) == {"ended"}


async def test_a_missing_machine_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER)
    lines: list[str] = []
    monkeypatch.setattr(stage.supervisor, "_report", lines.append)
    stage.full.add("rollout-1")
    run = stage.run()
    await until(lambda: [p.name for p in stage.started].count("rollout-1") == 4)
    assert len(lines) == 1 and "Still looking for one" in lines[0]
    stage.stop.set()
    assert await run is False
    assert set(states(tmp_path).values()) == {"ended"}


class SettingUp(Scripts):
    """Starts as on a cluster: environments are made first, and the learner's takes its time."""

    def __call__(self, spec: ProcessSpec, config: RunConfig, run_folder: Path) -> StartRequest:
        request = super().__call__(spec, config, run_folder)
        slow = ("sleep", "600") if spec.pool == "learner" else None
        return replace(request, set_up=slow)


async def test_stop_does_not_wait_for_an_environment_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: dict[str, Any] = {"broker": BROKER, "rollout": WAITING_LEARNER, "learner": FAILING}
    stage = Stage(tmp_path, monkeypatch, ranks=2)
    monkeypatch.setattr(
        deploy.supervision.start_requests, "start_request", SettingUp(tmp_path, scripts)
    )
    run = stage.run()
    await stage.until_up("rollout-0")
    assert states(tmp_path)["learner-0"] == states(tmp_path)["learner-1"] == "starting"
    stage.stop.set()
    async with asyncio.timeout(LIMIT_S):
        assert await run is False
    assert set(states(tmp_path).values()) == {"ended"}
    assert stage.reported == {} and stage.alive() == []
