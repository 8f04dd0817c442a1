"""The actor as Ray runs it, here without Ray."""

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from deploy.cluster.process_specs import ROOT
from deploy.supervision.process_actor import CannotStart, ProcessActor, StartRequest
from tests.waiting import LIMIT_S, until

WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def order(folder: Path, script: str, **more: object) -> StartRequest:
    fields: dict[str, object] = {
        "command": (sys.executable, "-c", script),
        "environment": {},
        "log": str(folder / "logs" / "a.log"),
        "log_bytes": 2**20,
        "log_files": 2,
    }
    return StartRequest(**{**fields, **more})  # type: ignore[arg-type]


def log_of(folder: Path) -> str:
    log = folder / "logs" / "a.log"
    return log.read_text() if log.exists() else ""


def state_of(pid: int) -> str:
    """The kernel's letter for it; Z: it has ended; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.fixture
def actor() -> ProcessActor:
    return ProcessActor(host="127.0.0.1")


async def test_output_of_both_kinds_is_in_the_log_when_the_exit_code_is_known(
    actor: ProcessActor, tmp_path: Path
) -> None:
    script = (
        "import os, sys\nprint(os.environ['MINE'], os.getcwd(), os.environ['HOME'], flush=True)\n"
        "print('why', file=sys.stderr)\nsys.exit(3)"
    )
    pid = await actor.start(order(tmp_path, script, environment={"MINE": "yes"}))
    assert pid != os.getpid()
    assert await actor.wait() == 3
    assert await actor.wait() == 3, "whoever asks later is told too"
    assert log_of(tmp_path) == f"yes {ROOT} {os.environ['HOME']}\nwhy\n"


async def test_a_log_is_appended_to_and_begun_anew_when_it_is_full(
    actor: ProcessActor, tmp_path: Path
) -> None:
    for _ in range(3):
        await actor.start(order(tmp_path, "print('x' * 59)", log_bytes=100))
        await actor.wait()
    assert log_of(tmp_path) == "x" * 59 + "\n"
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["a.log", "a.log.1"]


async def test_a_term_is_for_the_process_alone_and_a_kill_for_its_children_too(
    actor: ProcessActor, tmp_path: Path
) -> None:
    heard = "import signal\nsignal.signal(15, lambda *_: print('heard', flush=True))"
    await actor.start(order(tmp_path, heard + WITH_CHILD))
    await until(lambda: log_of(tmp_path).endswith("\n"))
    child = int(log_of(tmp_path))
    await actor.signal(signal.SIGTERM)
    await until(lambda: log_of(tmp_path).endswith("heard\n"))
    assert state_of(child) not in ("", "Z")
    await actor.signal(signal.SIGKILL)
    assert await actor.wait() == -signal.SIGKILL
    await until(lambda: state_of(child) in ("", "Z"))


async def test_nobody_is_signalled_before_the_start_and_after_the_end(
    actor: ProcessActor, tmp_path: Path
) -> None:
    await actor.signal(signal.SIGKILL)
    await actor.start(order(tmp_path, ""))
    await actor.wait()
    await actor.signal(signal.SIGKILL)


async def test_a_child_that_holds_the_pipe_does_not_hold_up_the_exit_code(
    actor: ProcessActor, tmp_path: Path
) -> None:
    script = WITH_CHILD.rpartition("time.sleep")[0]  # leaves its child behind
    await actor.start(order(tmp_path, script))
    async with asyncio.timeout(LIMIT_S):
        assert await actor.wait() == 0
    os.kill(int(log_of(tmp_path)), signal.SIGKILL)
    await until(lambda: actor._output is not None and actor._output.done())


async def test_the_environment_is_made_first(actor: ProcessActor, tmp_path: Path) -> None:
    set_up = (sys.executable, "-c", "print('set up')")
    await actor.start(order(tmp_path, "print('run')", set_up=set_up))
    await actor.wait()
    assert log_of(tmp_path) == "set up\nrun\n"


async def test_an_environment_that_cannot_be_made_is_told(
    actor: ProcessActor, tmp_path: Path
) -> None:
    set_up = (sys.executable, "-c", "import sys; sys.exit('no network')")
    with pytest.raises(CannotStart, match=r"no network.* failed\. Fix: see .*a\.log"):
        await actor.start(order(tmp_path, "print('run')", set_up=set_up))
    assert log_of(tmp_path) == "no network\n"


async def test_making_the_environment_can_be_cut_short(actor: ProcessActor, tmp_path: Path) -> None:
    set_up = (sys.executable, "-c", WITH_CHILD)
    start = asyncio.create_task(actor.start(order(tmp_path, "print('run')", set_up=set_up)))
    await until(lambda: log_of(tmp_path).endswith("\n"))
    child = int(log_of(tmp_path))
    await actor.signal(signal.SIGKILL)
    with pytest.raises(CannotStart):
        await start
    await until(lambda: state_of(child) in ("", "Z"))


async def test_a_command_that_is_not_there_is_told(actor: ProcessActor, tmp_path: Path) -> None:
    told = rf"/no/python does not run in {ROOT} on .*: No such file.*Fix: .*`python`"
    with pytest.raises(CannotStart, match=told):
        await actor.start(order(tmp_path, "", command=("/no/python",)))


async def test_files_are_written_for_the_owner_where_they_are_not_there_yet(
    actor: ProcessActor, tmp_path: Path
) -> None:
    """Another machine may have those of an earlier start of this run."""
    new, same, old = (tmp_path / "run" / name for name in ("new", "same", "old"))
    same.parent.mkdir()
    same.write_bytes(b"2")
    same.chmod(0o644)
    written = same.stat().st_mtime_ns
    old.write_bytes(b"before")
    files = {str(new): b"1", str(same): b"2", str(old): b"3"}
    await actor.start(order(tmp_path, "", files=files))
    await actor.wait()
    assert [path.read_bytes() for path in (new, same, old)] == [b"1", b"2", b"3"]
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(old.stat().st_mode) == 0o600
    assert same.stat().st_mtime_ns == written
    assert len(list(new.parent.iterdir())) == 3


async def test_a_seat_has_a_free_port_of_its_machine(actor: ProcessActor) -> None:
    location = await actor.location()
    assert location.host == "127.0.0.1" and location.interface == "lo"
    server = await asyncio.start_server(lambda *_: None, location.host, location.port)
    server.close()
    await server.wait_closed()
