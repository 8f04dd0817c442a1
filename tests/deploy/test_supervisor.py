"""The supervisor over real processes, without Ray: small Python scripts play the roles."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

import deploy.supervisor
from common.config_cli import build
from deploy.placement import ProcessActor
from deploy.roles import Role
from deploy.supervisor import RoleFailed, Supervisor

FOLLOWER = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while not (folder / "finished").exists():
    time.sleep(0.02)
"""
BROKER = FOLLOWER.replace(
    "while not",
    """
(folder / "new").write_text(json.dumps({"address": "tcp://127.0.0.1:1", "run_id": "r"}))
(folder / "new").rename(folder / "broker.json")  # whole, or not at all
while not""",
)
LEARNER = """
import pathlib, sys, time
time.sleep(0.3)
pathlib.Path(sys.argv[1], "finished").touch()
"""
ENDLESS = "import time\nprint('working', flush=True)\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENDLESS
FAILING = "import sys\nprint('first line')\nprint('the reason', file=sys.stderr)\nsys.exit(3)"


class LocalProcess:
    """A role's process on this machine, by the very class that runs in Ray workers."""

    def __init__(self, role: Role, log: Path) -> None:
        self.role = role
        self.pid = 0
        self._actor = ProcessActor(role.command, role.environment, str(log))

    async def start(self) -> None:
        self.pid = await self._actor.start()

    async def wait(self) -> int | None:
        return await self._actor.wait()

    async def signal(self, number: int) -> None:
        await self._actor.signal(number)


class Stage:
    """A supervisor whose roles are scripts; remembers their pids."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
        def role(name: str) -> Role:
            command = (sys.executable, "-c", scripts[name.replace("-", "_")], str(folder))
            return Role(name, command, cpus=1, gpus=0, ends_run=name == "learner")

        monkeypatch.setattr(deploy.supervisor, "broker_role", lambda _: role("broker"))
        others = [name.replace("_", "-") for name in scripts if name != "broker"]
        monkeypatch.setattr(
            deploy.supervisor, "worker_roles", lambda *_: [role(name) for name in others]
        )
        self.processes: list[LocalProcess] = []
        self.folder = folder
        self.reported: dict[str, list[str]] = {}  # line -> who was alive when it came
        config = build({"cluster": {"drain_s": 1.0}})
        self.supervisor = Supervisor(config, folder, self._place, self._note)

    def _place(self, role: Role) -> LocalProcess:
        self.processes.append(LocalProcess(role, self.folder / "logs" / f"{role.name}.log"))
        return self.processes[-1]

    def _note(self, line: str) -> None:
        self.reported[line] = self.alive()

    def alive(self) -> list[str]:
        return [p.role.name for p in self.processes if _is_alive(p.pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_run_ends_when_its_processes_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, broker=BROKER, rollout_0=FOLLOWER, learner=LEARNER)
    assert await stage.supervisor.run(asyncio.Event()) is True
    assert stage.supervisor.broker_address.result() == "tcp://127.0.0.1:1"
    assert stage.alive() == []


async def test_the_address_of_an_earlier_broker_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run that is resumed. The new broker writes the same address, or another one."""
    for known in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:9"):
        (tmp_path / "broker.json").write_text(json.dumps({"address": known, "run_id": "r"}))
        late = "import time\ntime.sleep(0.3)\n" + BROKER
        stage = Stage(tmp_path, monkeypatch, broker=late, rollout_0=FOLLOWER, learner=LEARNER)
        run = asyncio.create_task(stage.supervisor.run(asyncio.Event()))
        while not stage.processes or not stage.processes[0].pid:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)
        assert len(stage.processes) == 1, "others started before there was a broker"
        assert await run is True
        assert stage.supervisor.broker_address.result() == "tcp://127.0.0.1:1"
        (tmp_path / "finished").unlink()


@pytest.mark.parametrize("victim", ["broker", "rollout_0", "learner"])
async def test_a_role_that_fails_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    scripts = {"broker": BROKER, "rollout_0": ENDLESS, "learner": ENDLESS, victim: FAILING}
    stage = Stage(tmp_path, monkeypatch, **scripts)
    name = victim.replace("_", "-")
    with pytest.raises(RoleFailed, match=f"{name} failed with exit code 3") as caught:
        await stage.supervisor.run(asyncio.Event())
    assert "the reason" in str(caught.value) and f"{name}.log" in str(caught.value)
    assert stage.alive() == []


async def test_a_killed_role_is_named_with_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = "import os\nos.kill(os.getpid(), 9)"
    stage = Stage(tmp_path, monkeypatch, broker=BROKER, rollout_0=killed, learner=ENDLESS)
    with pytest.raises(RoleFailed, match="rollout-0 was ended by SIGKILL"):
        await stage.supervisor.run(asyncio.Event())
    alive_then = stage.reported["rollout-0 was ended by SIGKILL; ending the others"]
    assert "broker" in alive_then and "learner" in alive_then  # named before they were ended
    assert stage.alive() == []


async def test_stop_ends_even_those_that_do_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, broker=BROKER, rollout_0=DEAF, learner=DEAF)
    stop = asyncio.Event()
    run = asyncio.create_task(stage.supervisor.run(stop))
    while len(stage.processes) < 3 or "working" not in _read(tmp_path / "logs" / "learner.log"):
        await asyncio.sleep(0.02)
    stop.set()
    assert await run is False
    assert stage.alive() == []


async def test_what_lingers_after_the_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, broker=BROKER, rollout_0=DEAF, learner=LEARNER)
    assert await stage.supervisor.run(asyncio.Event()) is True
    assert stage.alive() == []


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
