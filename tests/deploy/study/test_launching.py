import asyncio
from pathlib import Path

from deploy.study.launching import launch
from tests.waiting import until

FOREVER = "while :; do sleep 1 & wait $!; done"


def never() -> asyncio.Event:
    return asyncio.Event()


async def wait_for_line(log: Path, line: str) -> None:
    await until(lambda: log.exists() and line in log.read_text())


async def test_the_exit_code_is_the_processes_and_the_log_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    command = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    assert await launch(command, log, never(), never(), None) == 7
    assert log.read_text() == "before\nout\nerr\n"


async def test_each_signal_is_passed_on_once(tmp_path: Path) -> None:
    log, stop, at_once = tmp_path / "log", never(), never()
    count = "n=0; trap 'n=$((n+1)); echo got $n; [ $n -lt 2 ] || exit 130' TERM; echo ready; "
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(launch(["sh", "-c", count + FOREVER], log, stop, at_once, 60))
        await wait_for_line(log, "ready")
        stop.set()
        await wait_for_line(log, "got 1")
        at_once.set()
    assert run.result() == 130
    assert log.read_text().splitlines() == ["ready", "got 1", "got 2"]


async def test_a_process_that_takes_too_long_is_told_to_end(tmp_path: Path) -> None:
    assert await launch(["sleep", "60"], tmp_path / "log", never(), never(), 0.05) == 124


async def test_a_process_that_hears_nothing_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    deaf = ["sh", "-c", f"trap '' TERM; {FOREVER}"]
    assert await launch(deaf, log, never(), never(), 0.3, drain_s=0.05) == 124
