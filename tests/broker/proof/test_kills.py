"""Real processes, killed with SIGKILL at random moments while they run, and started again."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.journal import main as journal
from common.dataset import read_samples
from common.source import SampleSource
from tests.broker.proof.players import HURRY
from tests.broker.support import write_dataset
from tests.repetitions import repeated

ROOT = Path(__file__).resolve().parents[3]
GROUPS_PER_STEP = 4
KILLS = repeated(some=30, full=100)
SERVERS = 2
RESTART_S = 0.1


class Processes:
    """A broker, its rollout servers and a learner; whichever ends is started again."""

    def __init__(self, folder: Path, num_samples: int) -> None:
        self.folder = folder / "run"
        (self.folder / "pushes").mkdir(parents=True)
        python = (sys.executable, "-m")
        player = (*python, "tests.broker.proof.players")
        self.commands: dict[str, tuple[str, ...]] = {
            "broker": (
                *python, "broker.main", "--broker.address", "tcp://127.0.0.1:0",
                "--data.train", str(write_dataset(folder, num_samples)),
                "--run.folder", str(self.folder),
                "--learner.groups_per_step", str(GROUPS_PER_STEP),
                "--rollout.trajectories_per_sample", "2",
                "--broker.max_staleness", "1",
                "--broker.member_timeout_s", "3", "--broker.lease_s", "5",
            ),
            **{
                f"rollout-{i}": (*player, "rollout", f"rollout-{i}", str(self.folder))
                for i in range(SERVERS)
            },
            "learner": (*player, "learner", str(self.folder)),
        }  # fmt: skip
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.starts: Counter[str] = Counter()

    def start(self, name: str) -> None:
        self.starts[name] += 1
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name], cwd=ROOT, stdout=log, stderr=log
            )

    def start_all(self) -> None:
        self.start("broker")
        deadline = time.monotonic() + 30
        while not (self.folder / "broker.json").exists():
            assert time.monotonic() < deadline, self.log("broker")
            time.sleep(0.05)
        for name in self.commands:
            if name != "broker":
                self.start(name)

    def keep_alive(self) -> None:
        """Start again what has ended, unless that was the end of the run."""
        for name, process in self.running.items():
            if process.poll() is not None and not (self.folder / "final.json").exists():
                self.start(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def kill_all(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    made = Processes(tmp_path, request.param)
    made.start_all()
    yield made
    made.kill_all()


def run(processes: Processes, num_kills: int, rng: random.Random, limit_s: float) -> Counter[str]:
    """Kill that often, then let the run end."""
    killed: Counter[str] = Counter()
    deadline = time.monotonic() + limit_s
    final = processes.folder / "final.json"
    while not final.exists():
        assert time.monotonic() < deadline, {n: processes.log(n) for n in processes.commands}
        time.sleep(rng.uniform(0.2, 1.2) if killed.total() < num_kills else RESTART_S)
        if killed.total() < num_kills:
            name = rng.choice(list(processes.running))
            processes.running[name].kill()
            processes.running[name].wait()
            killed[name] += 1
        elif not (processes.folder / HURRY).exists():
            (processes.folder / HURRY).touch()
        time.sleep(RESTART_S)
        processes.keep_alive()
    return killed


def check(processes: Processes, num_samples: int, capsys: pytest.CaptureFixture[str]) -> None:
    weights = json.loads((processes.folder / "final.json").read_text())
    trained = [group for step in weights for group in step]
    samples, _ = read_samples(processes.folder.parent / "train.parquet")
    source = SampleSource(samples)
    assert trained == [source.at(index).group_id for index in range(num_samples)]
    for name in processes.commands:
        assert "AssertionError" not in processes.log(name), processes.log(name)
    processes.kill_all()
    journal([str(processes.folder), "replay"])
    told = capsys.readouterr().out
    assert f"samples_trained              {num_samples}" in told


@pytest.mark.parametrize("processes", [40], indirect=True)
@pytest.mark.timeout(120)
def test_a_few_kills(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    run(processes, 4, random.Random(1), limit_s=100)
    check(processes, 40, capsys)


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processes", [16 * KILLS], indirect=True)
def test_many_kills(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    killed = run(processes, KILLS, random.Random(0), limit_s=800)
    check(processes, 16 * KILLS, capsys)
    seconds = time.monotonic() - started
    with capsys.disabled():
        print(f"\nkills: {dict(killed)}, starts: {dict(processes.starts)}, {seconds:.0f} s")
    assert killed.total() == KILLS, "the run was over before"
