"""The launcher as a person starts it: real Ray, real processes, a few steps of the quickstart.

Holds deploy/supervision/live_run.py.
"""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.supervision.private_folder import places, remove_left_behind
from tests.deploy.quickstart.support import SMALL, Launched
from tests.waiting import wait_until

LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "00000000000000000000000001000000",  # ::1
    "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
}
pytestmark = pytest.mark.timeout(320)


def is_used(path: Path) -> bool:
    """Whether a living process has this file in its memory."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(path) in maps.read_text(errors="replace"):
                return True
    return False


@pytest.fixture
def clean_machine() -> Iterator[None]:
    """Fails when a test leaves shared memory behind."""
    before = set(Path("/dev/shm").glob("*"))
    yield
    # A process that has just ended beside this one has its tracker clean up behind it.
    wait_until(lambda: unused_memory() <= before, report=lambda: unused_memory() - before)


def unused_memory() -> set[Path]:
    """Shared memory that no living process has: tests beside this have theirs."""
    files = set(Path("/dev/shm").glob("*")) - set(Path("/dev/shm").glob("sglang*"))
    return {path for path in files if not is_used(path)}


@pytest.mark.minutes(1)
@pytest.mark.usefixtures("clean_machine")
def test_the_quickstart_runs_from_start_to_report(tmp_path: Path) -> None:
    run = Launched(tmp_path / "run", *SMALL, "--learner.max_steps", "4", "--rollout.servers", "2")
    assert run.wait() == 0, run.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["trajectories_trained"] == 4 * 8 * 4
    assert summary["trajectories_expired"] == 0
    assert summary["max_staleness_seen"] <= 1
    assert summary["interrupted"] is False
    for key in ("full_accuracy_before", "full_accuracy_after", "crop_accuracy_before",
                "crop_accuracy_after"):  # fmt: skip
        assert 0 <= summary[key] <= 1
    assert [row["step"] for row in run.metrics() if "learner/loss_nats" in row] == [1, 2, 3, 4]
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert "rollout servers" in (run.folder / "report.html").read_text()  # their idle share
    assert (run.folder / "checkpoints" / "step-000004" / "model.safetensors").exists()
    # Which steps the view shows depends on when it looks (its own tests cover it).
    for part in ("held-out accuracy", "gap closed", "4 steps in", "report.html"):
        assert part in run.output()
    limited = run.ask("deploy.explain").splitlines()[0]
    assert re.match(r"(.* limited it: |It was balanced: )", limited), limited
    assert limited[:20] in run.ask("deploy.top", "--once")
    run.assert_nothing_is_left()


@pytest.mark.minutes(1)
@pytest.mark.usefixtures("clean_machine")
@pytest.mark.parametrize(
    "sender",
    ["kill", *(pytest.param(name, marks=pytest.mark.slow) for name in ("terminal", "hangup"))],
)
def test_a_signal_drains_and_leaves_nothing(tmp_path: Path, sender: str) -> None:
    run = Launched(tmp_path / "run", *SMALL)
    run.wait_for_step(1)
    assert "0100007F" in run.listens_on() <= LOOPBACK, run.listens_on()
    seen = run.ask("deploy.top", "--once")
    assert "training" in seen and "rollout-0" in seen and "no launcher" not in seen, seen
    if sender == "kill":
        run.process.send_signal(signal.SIGTERM)
    else:  # Ctrl-C, or the end of the terminal, reaches every process of the group, Ray's own too
        number = signal.SIGINT if sender == "terminal" else signal.SIGHUP
        os.killpg(run.process.pid, number)
    assert run.wait() == 130, run.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["interrupted"] is True and summary["steps"] >= 1
    assert (run.folder / "checkpoints" / f"step-{summary['steps']:06d}").is_dir()
    run.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.usefixtures("clean_machine")
def test_a_stopped_server_is_replaced_and_a_second_signal_ends_cleanly(tmp_path: Path) -> None:
    options = ("--broker.member_timeout_s", "4", "--checkpoint.every_steps", "1")
    options += ("--evaluation.every_steps", "0", "--data.heldout", "none")
    run = Launched(tmp_path / "run", "--learner.groups_per_step", "8", *options)
    run.wait_for_step(2)
    run.kill("rollout-0", signal.SIGSTOP)
    reached = max(row["step"] for row in run.metrics())
    run.wait_for_step(int(reached) + 4)  # more than could be under way: its only server is new
    (why,) = run.ends("rollout-0")
    assert re.fullmatch(r"was silent for \d+ s and was killed", why)
    assert "rollout-0: silent (it is replaced at 6 s)" in run.output()
    run.kill("learner-0", signal.SIGSTOP)  # so that draining takes long
    run.process.send_signal(signal.SIGINT)
    run.wait_until_output("draining: ")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.output()
    for part in ("Ctrl-C again ends at once", "ended at once", "kept: the checkpoint of step"):
        assert part in run.output()
    assert f"to go on: deploy/launch_cluster.sh --config {run.folder}/config.toml" in run.output()
    assert {entry["state"] for entry in run.entries()} == {"ended"}
    assert "the run has ended" in run.ask("deploy.status")
    run.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.usefixtures("clean_machine")
def test_a_role_that_is_killed_and_may_not_come_back_ends_the_run(tmp_path: Path) -> None:
    # The broker waits for the dead one's goodbye, for as long as it may be silent.
    options = ("--cluster.max_restarts", "0", "--broker.member_timeout_s", "4")
    run = Launched(tmp_path / "run", *SMALL, *options)
    run.wait_for_step(1)
    (victim,) = run.pids("-m rollout.main")
    os.kill(victim, signal.SIGKILL)
    assert run.wait() == 1
    told = "run failed: rollout-0 was ended by SIGKILL. 0 restarts are used up"
    assert told in run.output(), run.output()
    log = (run.folder / "logs" / "rollout-0.log").read_text().splitlines()
    assert log and f"rollout-0.log:\n  {log[-20:][0]}\n" in run.output(), "the end of its log"
    assert run.entry("rollout-0")["state"] == "given up"
    assert not (run.folder / "launcher.json").exists()
    run.assert_nothing_is_left()


@pytest.mark.slow
def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    run = Launched(tmp_path / "run", *SMALL)
    run.wait_for_step(1)
    run.process.kill()
    run.process.wait()

    def alive() -> list[str]:
        # Ray's two agents try for a minute more to tell a dead service of Ray's that all is over
        return [command for command in run.pids().values() if "Agent" not in command]

    wait_until(lambda: not alive(), report=alive)
    left = f"vopd-ray-{run.process.pid}-*"
    assert list(Path("/tmp").glob(left))
    remove_left_behind(places())  # as the next launcher does
    assert not list(Path("/tmp").glob(left))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--learner.groups_per_stp", "8"), "learner.groups_per_step?"),
        (("--data.train", "none"), "data.train"),
        (("--data.train", "missing.parquet"), "missing.parquet"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    run = Launched(tmp_path / "run", *arguments)
    assert run.wait() == 2
    assert part in run.output() and run.output().count("\n") == 1


def test_a_folder_with_a_run_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    run = Launched(tmp_path / "run")
    assert run.wait() == 2
    assert "holds a run already" in run.output() and "--run.resume true" in run.output()


@pytest.mark.minutes(1.5)
@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_ended_early_is_resumed(tmp_path: Path, end: signal.Signals) -> None:
    steps = ("--learner.max_steps", "4", "--checkpoint.every_steps", "1")
    run = Launched(tmp_path / "run", *SMALL, *steps)
    run.wait_for_step(2)
    run.process.send_signal(end)
    run.wait()
    before = next(row for row in run.metrics() if "evaluation/full_accuracy" in row)
    wait_until(lambda: not run.pids("main"), report=lambda: run.pids("main"))

    config = ("--config", str(run.folder / "config.toml"), "--run.resume", "true")
    again = Launched(run.folder, *config)
    assert again.wait() == 0, again.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["interrupted"] is False
    assert summary["trajectories_trained"] == 4 * 8 * 4
    assert summary["full_accuracy_before"] == before["evaluation/full_accuracy"]
    assert [row["step"] for row in run.metrics() if "learner/loss_nats" in row] == [1, 2, 3, 4]
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert "gap closed" in again.output()
    again.assert_nothing_is_left()


@pytest.mark.minutes(2.5)
@pytest.mark.slow
@pytest.mark.usefixtures("clean_machine")
def test_a_run_gets_through_deaths_of_all_kinds_and_is_resized(tmp_path: Path) -> None:
    steps = ("--learner.max_steps", "12", "--checkpoint.every_steps", "1", "--rollout.servers", "2")
    run = Launched(tmp_path / "run", *SMALL, "--evaluation.every_steps", "0", *steps)
    run.wait_for_step(1)
    run.kill("rollout-1")
    run.wait_for_step(2)
    run.kill("learner-0")
    run.wait_for_step(4)
    run.kill("broker")
    run.wait_for_step(5)
    assert run.ask("deploy.scale", "rollout=3") == "rollout servers: 2 > 3\n"
    run.wait_until_up("rollout-2")
    said = run.ask("deploy.status")
    assert "rollout-2  up " in said and "was ended by SIGKILL" in said and "/12" in said
    run.wait_for_step(7)
    run.kill("learner-0", signal.SIGTERM)  # as by somebody who takes its machine away
    run.wait_for_step(9)
    assert run.ask("deploy.scale", "rollout=1") == "rollout servers: 3 > 1\n"
    assert run.wait() == 0, run.output()

    assert [row["step"] for row in run.metrics() if "learner/loss_nats" in row] == [*range(1, 13)]
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["steps"] == 12 and summary["interrupted"] is False
    assert summary["trajectories_trained"] == 12 * 8 * 4
    assert summary["max_staleness_seen"] <= 1
    kill = "was ended by SIGKILL"
    assert run.ends("broker") == [kill]
    assert run.ends("learner-0") == [kill, "was told to stop by somebody else"]
    left = {entry["name"]: entry["state"] for entry in run.entries()}
    assert left == {"broker": "ended", "learner-0": "ended", "rollout-0": "ended"}
    for name, line in (
        ("rollout-1", f"rollout-1 {kill}; starting again in 1 s (restart 1 of 5)"),
        ("learner-0", f"learner-0 {kill}; starting again in 1 s (restart 1 of 5)"),
        ("broker", f"broker {kill}; starting again in 1 s (restart 1 of 5)"),
    ):
        assert line in run.output(), name
    assert "the run has ended" in run.ask("deploy.status")
    run.assert_nothing_is_left()
