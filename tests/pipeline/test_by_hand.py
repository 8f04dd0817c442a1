"""The roles are plain processes: the commands of a dry run, pasted into a terminal each."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.process_specs import ROOT
from deploy.quickstart.own import CACHE

TIMEOUT_S = 150
SMALL = (
    "--learner.max_steps 2 --learner.groups_per_step 4 --evaluation.samples 8 "
    "--evaluation.interim_samples 4 --evaluation.shown 1"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT_S)]


def printed_steps(arguments: str, folder: Path) -> dict[str, str]:
    """What a dry run tells to type, by its remark."""
    command = f"deploy/launch_cluster.sh --dry-run {arguments} --run.folder {folder}"
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^# (.+)\n((?:.+\n)+)", done.stdout, re.MULTILINE))


@contextlib.contextmanager
def terminal(text: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A shell somewhere else that gets the text as if it were pasted."""
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    assert shell.stdin is not None
    shell.stdin.write(text.encode())
    shell.stdin.close()
    try:
        yield shell
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("", ["broker", "rollout-0", "learner-0"]),
        (
            "--rollout.servers 2 --learner.ranks 2",
            ["broker", "rollout-0", "rollout-1", "learner-0", "learner-1"],
        ),
    ],
)
def test_the_printed_commands_make_a_run_in_terminals(
    arguments: str, names: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    steps = printed_steps(f"{SMALL} {arguments}", folder)
    assert not folder.exists()
    first = [remark for remark in steps if remark.startswith("first")]
    processes = [remark for remark in steps if remark not in first]
    world, keys = sorted(first, reverse=True)
    assert world == "first, once: the quickstart's world" and str(CACHE) in steps[world]
    assert "broker.keys" in steps[keys]
    assert [remark.partition(",")[0] for remark in processes] == names
    logs = {remark: tmp_path / f"{index}.log" for index, remark in enumerate(steps)}
    for remark in first:
        with terminal(steps[remark], logs[remark]) as shell:
            assert shell.wait(TIMEOUT_S) == 0, logs[remark].read_text()
    with contextlib.ExitStack() as stack:
        shells = {
            remark: stack.enter_context(terminal(steps[remark], logs[remark]))
            for remark in processes
        }
        for remark in reversed(processes):  # learners are done first
            assert shells[remark].wait(TIMEOUT_S) == 0, f"{remark}: {logs[remark].read_text()}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["interrupted"] is False
