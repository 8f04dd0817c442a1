"""The supervisor over real processes, without Ray: small Python scripts play the roles."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import deploy.supervision.supervisor
from broker.protocol import Status
from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError
from common.lifecycle import is_alive
from deploy.cluster.pools import Pool, process_name
from deploy.cluster.process_specs import Location, ProcessSpec
from deploy.supervision.placement import NoPlace
from deploy.supervision.process_actor import ProcessActor, StartRequest
from deploy.supervision.process_table import read_processes
from deploy.supervision.restart_loop import ProcessFailed, ProcessRefused, reason_in
from deploy.supervision.supervisor import Supervisor
from tests.deploy.statuses import member
from tests.waiting import LIMIT_S, until

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
ENDLESS = "import time\nprint('working', flush=True)\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENDLESS
FAILING = "import sys\nprint('first line')\nprint('the reason', file=sys.stderr)\nsys.exit(3)"
# Goes on once there is a file "go".
HELD = """
import pathlib, sys, time
while not (pathlib.Path(sys.argv[1]) / "go").exists():
    time.sleep(0.02)
"""


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
        monkeypatch.setattr(deploy.supervision.supervisor, "start_request", self.scripts)
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
        """As if the broker had seen every process."""
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


async def test_a_run_ends_when_its_processes_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, ranks=2)
    assert await stage.run() is True
    assert await stage.supervisor.broker_address() == "tcp://127.0.0.1:1"
    assert stage.alive() == []
    names = [entry.name for entry in read_processes(tmp_path)]
    assert names == ["broker", "learner-0", "learner-1", "rollout-0", "rollout-1"]
    assert {entry.state for entry in read_processes(tmp_path)} == {"ended"}
    assert stage.reported == {}


async def test_the_address_of_an_earlier_broker_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run that is resumed. The new broker writes the same address, or another one."""
    for known in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:9"):
        (tmp_path / "broker.json").write_text(json.dumps({"address": known, "run_id": "r"}))
        stage = Stage(tmp_path, monkeypatch, broker=HELD + BROKER)
        run = stage.run()
        await stage.until_up("broker")
        await asyncio.sleep(0.15)
        assert len(stage.started) == 1, "others started before there was a broker"
        (tmp_path / "go").touch()
        assert await run is True
        assert await stage.supervisor.broker_address() == "tcp://127.0.0.1:1"
        (tmp_path / "finished").unlink()
        (tmp_path / "go").unlink()


@pytest.mark.parametrize("victim", ["broker", "rollout", "learner"])
async def test_what_fails_before_it_ever_worked_ends_the_run_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    stage = Stage(tmp_path, monkeypatch, **{"learner": ENDLESS, victim: FAILING})
    name = victim if victim == "broker" else f"{victim}-0"
    with pytest.raises(ProcessFailed, match=f"{name} failed with exit code 3") as caught:
        await stage.run()
    assert "the reason" in str(caught.value) and f"{name}.log" in str(caught.value)
    assert stage.alive() == []


async def test_the_words_of_an_earlier_run_are_not_told_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "broker.log").write_text("words of the run before\n" * 3)
    with pytest.raises(ProcessFailed, match=r"broker.log:\n  first line\n  the reason$"):
        await Stage(tmp_path, monkeypatch, broker=FAILING).run()
    silent = "import sys\nsys.exit(3)"
    with pytest.raises(ProcessFailed, match=r"broker.log:\n  \(it wrote nothing\)$"):
        await Stage(tmp_path, monkeypatch, broker=silent).run()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("  2026-01-01 10:00:00.1+00:00 ERROR   r-0 __main__: none. Fix: it.", "none. Fix: it"),
        ("  config error: a.b = 1: bad. Fix: 2\n  trailing", "a.b = 1: bad. Fix: 2"),
        ("  data error: x\n  2026-01-01 10:00:00.1 ERROR   l __main__: y", "y"),
        ("  Traceback ...\n  ValueError: no", None),
        ("", None),
    ],
)
def test_the_reason_is_what_a_process_said_last_of_its_failure(
    words: str, reason: str | None
) -> None:
    assert reason_in(words) == reason


async def test_a_process_that_refuses_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, kind in ((2, True), (3, False)):
        stage = Stage(tmp_path, monkeypatch, broker=f"import sys\nsys.exit({code})")
        with pytest.raises(ProcessFailed) as caught:
            await stage.run()
        assert isinstance(caught.value, ProcessRefused) is kind
        assert not stage.supervisor.has_trained


async def test_a_rollout_that_dies_is_started_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0", "rollout-1")
    stage.kill("rollout-1")
    await stage.until_up("rollout-1", again=1)
    (tmp_path / "go").touch()
    assert await run is True
    line = "rollout-1 was ended by SIGKILL; starting again in 0.05 s (restart 1 of 5)"
    assert stage.reported == {line: ["broker", "learner-0", "rollout-0"]}
    entry = stage.entry("rollout-1")
    assert entry.restarts == 1 and [end.why for end in entry.ends] == ["was ended by SIGKILL"]
    assert stage.entry("rollout-0").restarts == 0
    assert [p.name for p in stage.started].count("learner-0") == 1


async def test_a_rank_that_dies_takes_the_others_along_and_all_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, ranks=3, learner=WAITING_LEARNER, learner_2=ENDLESS)
    run = stage.run()
    await stage.until_up("learner-0", "learner-1", "learner-2", "rollout-0")
    first = [stage.entry(f"learner-{rank}").pid for rank in range(3)]
    stage.kill("learner-1")
    await stage.until_up("learner-0", "learner-1", "learner-2", again=1)
    assert not any(is_alive(pid) for pid in first)
    stage.stop.set()
    assert await run is False
    assert list(stage.reported) == [
        "learner-1 was ended by SIGKILL; starting all 3 of them again in 0.05 s (restart 1 of 5)"
    ]
    assert [p.name for p in stage.started].count("rollout-0") == 1


async def test_a_final_error_of_one_rank_is_final_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others lose it in a collective, and may be noticed first."""
    refused = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print('listening', flush=True)\n{HELD}time.sleep(0.2)\nsys.exit(2)"
    )
    first = f"print('listening', flush=True)\n{HELD}sys.exit(1)"
    stage = Stage(
        tmp_path,
        monkeypatch,
        ranks=2,
        learner=refused,
        learner_0=first,
        cluster={"drain_s": LIMIT_S},
    )
    run = stage.run()
    await stage.until_listening("learner-0", "learner-1")
    stage.all_join()
    (tmp_path / "go").touch()
    with pytest.raises(ProcessFailed, match="learner-1 failed with exit code 2"):
        await run


async def test_a_broker_that_dies_is_started_again_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    stage.kill("broker")
    await stage.until_listening("broker", again=1)
    await asyncio.sleep(0.2)  # in which others would be started again
    (tmp_path / "go").touch()
    assert await run is True
    assert [p.name for p in stage.started] == ["broker", "learner-0", "rollout-0", "broker"]


async def test_a_broker_that_comes_back_elsewhere_has_all_others_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its machine is lost: the address that the others were given is nobody's."""
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    (tmp_path / "port").write_text("2")
    stage.kill("broker")
    await until(lambda: [p.name for p in stage.started].count("learner-0") == 2)
    (tmp_path / "go").touch()
    assert await run is True
    assert await stage.supervisor.broker_address() == "tcp://127.0.0.1:2"
    assert any("has moved to tcp://127.0.0.1:2" in line for line in stage.reported)


async def test_a_learner_that_somebody_else_stops_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its machine is to be taken away: it has written a checkpoint."""
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("rollout-0")
    await stage.until_listening("learner-0")
    os.kill(stage.entry("learner-0").pid, signal.SIGTERM)
    await stage.until_up("learner-0", again=1)
    (tmp_path / "go").touch()
    assert await run is True
    assert stage.entry("learner-0").ends[0].why == "was told to stop by somebody else"


async def test_a_budget_of_restarts_ends_the_run_when_it_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = "import os, time\ntime.sleep(0.1)\nos.kill(os.getpid(), 9)"
    stage = Stage(
        tmp_path, monkeypatch, rollout=killed, learner=ENDLESS, cluster={"max_restarts": 2}
    )
    with pytest.raises(ProcessFailed, match=r"was ended by SIGKILL\. 2 restarts are used up"):
        await stage.run()
    assert [p.name for p in stage.started].count("rollout-0") == 3
    assert stage.alive() == []


@pytest.mark.parametrize("victim", ["rollout-0", "learner-0"])
async def test_a_process_that_is_stopped_is_shown_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    monkeypatch.setattr(deploy.supervision.process_set, "_ORPHAN_GRACE_S", 0.1)
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    stage.all_join()
    first = stage.entry(victim).pid
    os.kill(first, signal.SIGSTOP)
    others = [name for name in ("broker", "learner-0", "rollout-0") if name != victim]
    stage.supervisor.update(status(others, lost={victim: 21.0}), 0.0)
    assert stage.entry(victim).state == "silent"

    def is_replaced() -> bool:
        stage.supervisor.update(status(others, lost={victim: 601.0}), 0.0)
        return stage._is_up(victim, again=1)

    await until(is_replaced)
    assert not is_alive(first)
    stage.supervisor.update(status(others, lost={victim: 700.0}), 0.0)  # of the life before
    assert stage.entry(victim).state == "up"
    assert [end.why for end in stage.entry(victim).ends] == ["was silent for 601 s and was killed"]
    (tmp_path / "go").touch()
    assert await run is True
    assert stage.entry(victim).restarts == 1
    line = f"{victim} was silent for 601 s and was killed; starting again in 0.05 s (restart 1 of"
    assert any(told.startswith(line) for told in stage.reported)


async def test_a_process_that_is_heard_again_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    stage.all_join()
    stage.supervisor.update(status(["broker", "learner-0"], lost={"rollout-0": 21.0}), 0.0)
    assert stage.entry("rollout-0").state == "silent"
    stage.all_join()
    assert stage.entry("rollout-0").state == "up"
    (tmp_path / "go").touch()
    assert await run is True and stage.entry("rollout-0").restarts == 0


async def test_a_second_stop_ends_at_once_what_would_drain_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, rollout=DEAF, learner=DEAF, cluster={"drain_s": 600.0})
    run = stage.run()
    await until(lambda: "working" in _read(tmp_path / "logs" / "learner-0.log"))
    await until(lambda: "working" in _read(tmp_path / "logs" / "rollout-0.log"))
    stage.stop.set()
    await until(lambda: stage.entry("learner-0").state == "ending")
    stage.supervisor._at_once.set()
    async with asyncio.timeout(LIMIT_S):
        assert await run is False
    assert stage.alive() == [] and stage.reported == {}
    assert {entry.state for entry in read_processes(tmp_path)} == {"ended"}


async def test_a_known_process_that_fails_is_started_again_but_not_for_a_final_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 says that the error would come back: a configuration, a gate."""
    for code, restarts in ((3, 1), (2, 0)):
        folder = tmp_path / str(code)
        folder.mkdir()
        failing = f"{HELD}sys.exit({code})"
        stage = Stage(
            folder, monkeypatch, rollout=failing, learner=ENDLESS, cluster={"max_restarts": 1}
        )
        run = stage.run()
        await stage.until_up("rollout-0")
        stage.all_join()
        (folder / "go").touch()
        with pytest.raises(ProcessFailed, match=f"failed with exit code {code}"):
            await run
        assert stage.entry("rollout-0").restarts == restarts


async def test_the_run_goes_on_without_a_server_whose_budget_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER, rollout_1=FAILING)
    run = stage.run()
    await until(lambda: any("going on without rollout-1" in line for line in stage.reported))
    assert stage.entry("rollout-1").state == "given up"
    (tmp_path / "go").touch()
    assert await run is True


async def test_a_server_without_a_machine_waits_for_one_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER)
    stage.full.add("rollout-1")
    run = stage.run()
    await until(lambda: any("rollout-1 found no machine" in line for line in stage.reported))
    assert stage.entry("rollout-1").state == "waiting for a place"
    stage.full.clear()
    await stage.until_up("rollout-1")
    (tmp_path / "go").touch()
    assert await run is True


async def test_a_learner_that_comes_back_does_not_wait_for_servers_without_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=3, learner=WAITING_LEARNER)
    stage.full.add("rollout-1")
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0", "rollout-2")
    stage.all_join()
    stage.kill("learner-0")
    await stage.until_up("learner-0", again=1)
    (tmp_path / "go").touch()
    assert await run is True
    assert stage.scripts.waited_for == [3, 2]


async def test_a_learner_whose_machine_is_lost_waits_for_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("learner-0", "rollout-0")
    stage.all_join()
    stage.full.add("learner-0")
    stage.kill("learner-0")
    await until(lambda: any("learner-0 found no machine" in line for line in stage.reported))
    stage.full.clear()
    await stage.until_up("learner-0", again=1)
    (tmp_path / "go").touch()
    assert await run is True


async def test_a_learner_without_a_machine_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch)
    stage.full.add("learner-0")
    with pytest.raises(NoPlace, match="learner-0 found no machine with room"):
        await stage.run()
    assert stage.alive() == []


async def test_servers_come_and_go_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, learner=WAITING_LEARNER)
    run = stage.run()
    await stage.until_up("rollout-0", "rollout-1")
    stage.supervisor.scale(4)
    await stage.until_listening("rollout-0", "rollout-1", "rollout-2", "rollout-3")
    stage.supervisor.scale(1)
    stage.supervisor.scale(2)  # while the others drain
    stage.supervisor.scale(3)
    await until(lambda: [p.name for p in stage.started].count("rollout-2") == 2)
    await stage.until_up("rollout-0", "rollout-1", "rollout-2")
    await until(lambda: "rollout-3" not in [e.name for e in read_processes(tmp_path)])
    with pytest.raises(ConfigError, match="a run needs one"):
        stage.supervisor.scale(0)
    (tmp_path / "go").touch()
    assert await run is True
    assert stage.reported == {}
    assert stage.alive() == []


async def test_stop_ends_even_those_that_do_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, rollout=DEAF, learner=DEAF)
    run = stage.run()
    await until(lambda: "working" in _read(tmp_path / "logs" / "learner-0.log"))
    await until(lambda: "working" in _read(tmp_path / "logs" / "rollout-0.log"))
    stage.stop.set()
    assert await run is False
    assert stage.alive() == []
    assert stage.reported == {}


@pytest.mark.parametrize("moment", ["broker", "learner-0", "rollout-0"])
async def test_stop_while_processes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    stage = Stage(tmp_path, monkeypatch, learner=ENDLESS)
    stage.full.add(moment)
    run = stage.run()
    await until(lambda: moment in [p.name for p in stage.started])
    stage.stop.set()
    assert await run is False
    assert stage.alive() == []


async def test_what_lingers_after_the_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, rollout=DEAF)
    assert await stage.run() is True
    assert stage.alive() == []


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
