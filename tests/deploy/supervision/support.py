"""A supervisor whose processes are small scripts on this machine."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import deploy.supervision.start_requests
from broker.protocol import Status
from common.config import RunConfig
from common.config_cli import build
from common.lifecycle import is_alive
from deploy.cluster.pools import Pool, process_name
from deploy.cluster.process_specs import Location, ProcessSpec
from deploy.supervision.placement import NoPlace
from deploy.supervision.process_actor import ProcessActor, StartRequest
from deploy.supervision.process_table import read_processes
from deploy.supervision.supervisor import Supervisor
from tests.deploy.statuses import member
from tests.waiting import until

NOW = time.strptime("2026-11-23 20:21:10", "%Y-%m-%d %H:%M:%S")


FOLLOWER = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening", flush=True)
while not (folder / "finished").exists():
    time.sleep(0.02)
"""
BROKER = FOLLOWER.replace(
    "print",
    """
port = (folder / "port").read_text() if (folder / "port").exists() else "1"
(folder / "new").write_text(json.dumps({"address": "tcp://127.0.0.1:" + port, "run_id": "r"}))
(folder / "new").rename(folder / "broker.json")  # whole, or not at all
print""",
)
SUMMARY = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(is_interrupted):
    (folder / "summary.json").write_text(json.dumps({"interrupted": is_interrupted}))
    if not is_interrupted:
        (folder / "finished").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: end(True))
print("listening", flush=True)
"""
LEARNER = SUMMARY + "time.sleep(0.3)\nend(False)"
# Ends well once there is a file "go".
WAITING_LEARNER = SUMMARY + "while not (folder / 'go').exists():\n    time.sleep(0.02)\nend(False)"

FAILING = "import sys\nprint('first line')\nprint('the reason', file=sys.stderr)\nsys.exit(3)"


class LocalProcess:
    """A process on this machine, by the very class that runs in Ray workers."""

    def __init__(self, name: str, room: Callable[[str], bool] = lambda name: True) -> None:
        self.name = name
        self.pid = 0
        self._has_room = room
        self._actor = ProcessActor(host="127.0.0.1")

    async def location(self, timeout_s: float) -> Location:
        if not self._has_room(self.name):
            await asyncio.sleep(timeout_s)
            raise NoPlace(f"{self.name} found no machine with room within {timeout_s:g} s")
        return await self._actor.location()

    async def start(self, order: StartRequest) -> int:
        self.pid = await self._actor.start(order)
        return self.pid

    async def wait(self) -> int | None:
        return await self._actor.wait()

    async def signal(self, number: int) -> None:
        await self._actor.signal(number)

    def release(self) -> None:
        return


def place_here(pool: Pool, rank: int) -> LocalProcess:
    """Where there is room for everything."""
    return LocalProcess(process_name(pool.name, rank))


class Scripts:
    """In place of `start_request`: a process runs its script, else that of its pool."""

    def __init__(self, folder: Path, scripts: dict[str, str]) -> None:
        self._folder = folder
        self._scripts = scripts
        self.waited_for: list[int] = []  # servers, by each life of the learner

    def __call__(self, spec: ProcessSpec, config: RunConfig, run_folder: Path) -> StartRequest:
        if spec.name == "learner-0":
            flag = spec.command.index("--rollout.servers")
            self.waited_for.append(int(spec.command[flag + 1]))
        script = self._scripts.get(spec.name.replace("-", "_")) or self._scripts[spec.pool]
        command = (sys.executable, "-c", script, str(self._folder))
        return StartRequest(command, {}, str(self._folder / "logs" / f"{spec.name}.log"), 2**20, 2)


class Stage:
    """A supervisor whose processes are scripts."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        servers: int = 1,
        ranks: int = 1,
        cluster: dict[str, Any] | None = None,
        **scripts: str,
    ) -> None:
        scripts = {"broker": BROKER, "rollout": FOLLOWER, "learner": LEARNER, **scripts}
        self.scripts = Scripts(folder, scripts)
        monkeypatch.setattr(deploy.supervision.start_requests, "start_request", self.scripts)
        self.started: list[LocalProcess] = []
        self.folder = folder
        self.full: set[str] = set()  # names of processes that find no room
        self.reported: dict[str, list[str]] = {}  # line -> who was alive when it came
        quick = {"drain_s": 1.0, "restart_delay_s": 0.05, "place_timeout_s": 0.2}
        config = build(
            {
                "cluster": quick | (cluster or {}),
                "rollout": {"servers": servers},
                "learner": {"ranks": ranks},
            }
        )
        self.supervisor = Supervisor(config, folder, self._place, self._note)
        self.stop = asyncio.Event()

    def run(self) -> "asyncio.Task[bool]":
        return asyncio.create_task(self.supervisor.run(self.stop))

    def _place(self, pool: Pool, rank: int) -> LocalProcess:
        name = process_name(pool.name, rank)
        self.started.append(LocalProcess(name, lambda name: name not in self.full))
        return self.started[-1]

    def _note(self, line: str) -> None:
        self.reported[line] = self.alive()

    def alive(self) -> list[str]:
        return [p.name for p in self.started if p.pid and is_alive(p.pid)]

    def all_join(self) -> None:
        """Pretend that the broker had seen every process."""
        self.supervisor.update(status([p.name for p in self.started]), 0.0)

    def entry(self, name: str) -> Any:
        return next(e for e in read_processes(self.folder) if e.name == name)

    async def until_up(self, *names: str, again: int = 0) -> None:
        """Until these run, in the life after `again` restarts."""
        for name in names:
            await until(lambda name=name: self._is_up(name, again))

    async def until_listening(self, *names: str, again: int = 0) -> None:
        """Until these are up and can be told to stop; a broker has announced itself by then."""
        await self.until_up(*names, again=again)
        for name in names:
            log = self.folder / "logs" / f"{name}.log"
            await until(lambda log=log: _read(log).count("listening\n") > again)

    def _is_up(self, name: str, again: int) -> bool:
        found = [e for e in self.supervisor.table.entries() if e.name == name]
        return bool(found) and found[0].state == "up" and found[0].restarts == again

    def kill(self, name: str) -> None:
        os.kill(self.entry(name).pid, signal.SIGKILL)


def status(
    members: Sequence[str], is_finished: bool = False, lost: dict[str, float] | None = None
) -> Status:
    return Status(
        run_id="r", version=1, history=0, committed=0, total_steps=2, finished=is_finished,
        counts={}, expired_by_reason={}, trained_lengths={}, expired_lengths={},
        max_staleness_seen=0, slots_used=0, slots=1, storage={},
        members=tuple(member(name) for name in members), lost=lost or {},
    )  # fmt: skip


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
