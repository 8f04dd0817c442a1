"""The supervisor over real processes, without Ray: small Python scripts play the roles.

Holds deploy/supervision/broker_address.py, deploy/supervision/process_set.py.
"""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

import deploy.supervision.supervisor
from common.errors import ConfigError
from common.lifecycle import is_alive
from deploy.supervision.placement import NoPlace
from deploy.supervision.process_table import read_processes
from deploy.supervision.restart_loop import ProcessFailed, ProcessRefused, reason_in
from tests.deploy.supervision.support import BROKER, FAILING, WAITING_LEARNER, Stage, _read, status
from tests.waiting import LIMIT_S, until

ENDLESS = "import time\nprint('working', flush=True)\ntime.sleep(600)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENDLESS
# Goes on once there is a file "go".
HELD = """
import pathlib, sys, time
while not (pathlib.Path(sys.argv[1]) / "go").exists():
    time.sleep(0.02)
"""


async def test_a_run_ends_when_its_processes_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, servers=2, ranks=2)
    (tmp_path / "scrape").mkdir()
    for name in ("broker", "learner-1", "rollout-1", "launcher"):  # the launcher lives
        (tmp_path / "scrape" / f"{name}.json").touch()
    assert await stage.run() is True
    assert [left.name for left in (tmp_path / "scrape").iterdir()] == ["launcher.json"]
    assert await stage.supervisor.broker_address() == "tcp://127.0.0.1:1"
    assert stage.alive() == []
    names = [entry.name for entry in read_processes(tmp_path)]
    assert names == ["broker", "learner-0", "learner-1", "rollout-0", "rollout-1"]
    assert {entry.state for entry in read_processes(tmp_path)} == {"ended"}
    assert stage.reported == {}


async def test_the_address_of_an_earlier_broker_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run has one. The new broker writes the same address, or another one."""
    for known in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:9"):
        (tmp_path / "broker.json").write_text(json.dumps({"address": known, "run_id": "r"}))
        stage = Stage(tmp_path, monkeypatch, broker=HELD + BROKER)
        run = stage.run()
        await stage.until_up("broker")
        await asyncio.sleep(0.15)  # in which others would be started
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
    # It ends a moment after the other.
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
    """Its machine was lost: the address that the others were given is nobody's."""
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
    """Its machine is to be taken away: it has written a checkpoint."""
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
    killed = "import os\nos.kill(os.getpid(), 9)"
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
