"""The quickstart over three machines: one is cut off and healed, one is lost and comes back.

a  Ray's head, the launcher, the broker      b  the learner, a rollout      c  a rollout
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.keys import FILE_OF, SERVER_FILE
from deploy.supervision.process_table import Entry, read_processes
from tests.hosts.namespaces import why_not
from tests.hosts.ray_nodes import RayHosts

ROOT = Path(__file__).resolve().parents[2]
STEPS, GROUPS, RESPONSES = 12, 8, 4
LIMIT_S = 200.0
LOST_AFTER_S = 16.0  # a machine that is cut off for less stays part of the cluster, also under load
CUT_S = 5.0  # longer than the broker waits for a member, shorter than 1.5 times that
CONFIG = f"""
extends = "{ROOT}/deploy/configs/quickstart.toml"

[learner]
groups_per_step = {GROUPS}
max_steps = {STEPS}

[rollout]
servers = 2

[broker]
member_timeout_s = 4.0

[weights]
timeout_s = 3.0

[checkpoint]
every_steps = 1

[evaluation]
every_steps = 0
samples = 8
shown = 1

[broker_pool]
labels = ["pool=a"]

[learner_pool]
labels = ["pool=b"]

[rollout_pool]
labels = ["pool=!a"]
nodes = 2
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Launched:
    """The launcher on host a."""

    def __init__(self, cluster: RayHosts, folder: Path) -> None:
        self.folder = folder / "run"
        self._output = folder / "launcher.out"
        config = folder / "hosts.toml"
        config.write_text(CONFIG)
        command = (
            *(sys.executable, "-m", "deploy.launch", "--config", str(config)),
            *("--address", cluster.address, "--run.folder", str(self.folder)),
        )
        self.process: subprocess.Popen[bytes] = cluster.popen_on("a", command, output=self._output)

    def output(self) -> str:
        logs = sorted((self.folder / "logs").glob("*.log"))
        tails = [f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs]
        return "\n".join([self._output.read_text(), *tails])

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(row["step"] >= step for row in self.rows()))

    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [row for row in rows if "learner/loss_nats" in row]

    def entry(self, name: str) -> Entry:
        return next(entry for entry in read_processes(self.folder) if entry.name == name)


@pytest.fixture
def cluster() -> Iterator[RayHosts]:
    if reason := why_not():
        pytest.skip(reason)
    with RayHosts(lost_after_s=LOST_AFTER_S) as hosts:
        yield hosts


def test_a_run_outlives_a_cut_and_a_lost_machine(cluster: RayHosts, tmp_path: Path) -> None:
    run = Launched(cluster, tmp_path)
    run.until_step(2)
    at = {entry.name: entry.node for entry in read_processes(run.folder)}
    a, b, c = (cluster.hosts.address(host) for host in "abc")
    assert (at["broker"], at["learner-0"]) == (a, b)
    assert {at["rollout-0"], at["rollout-1"]} == {b, c}
    for name in (SERVER_FILE, *FILE_OF.values()):
        assert (run.folder / "keys" / name).stat().st_mode & 0o077 == 0
    address = json.loads((run.folder / "broker.json").read_text())["address"]
    assert address.startswith(f"tcp://{a}:")

    there = next(name for name in ("rollout-0", "rollout-1") if at[name] == c)
    cluster.hosts.cut("c")
    time.sleep(CUT_S)
    cluster.hosts.heal("c")
    run.until_step(run.rows()[-1]["step"] + 2)
    assert run.entry(there).restarts == 0, "it was only cut off"
    log = (run.folder / "logs" / "broker.log").read_text()
    assert f"{there} is gone: silent for" in log

    cluster.kill("b")
    run.until(lambda: run.entry("learner-0").restarts == 1)
    cluster.restart("b")
    assert run.process.wait(LIMIT_S) == 0, run.output()

    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["steps"] == STEPS and not summary["interrupted"]
    assert summary["trajectories_trained"] == STEPS * GROUPS * RESPONSES
    assert [row["step"] for row in run.rows()] == list(range(1, STEPS + 1))
    lost = "was lost together with its machine or Ray worker"
    assert [end.why for end in run.entry("learner-0").ends] == [lost]
    assert run.entry("broker").restarts == 0
    replayed = subprocess.run(
        (sys.executable, "-m", "broker.journal", str(run.folder), "replay"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
