"""A run over three hosts as a person would start it: plain commands, keys, no launcher, no Ray."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.journal import main as journal
from common.config_cli import build, dump_toml
from tests.hosts.listening import LOOPBACK, Listening, listening
from tests.hosts.namespaces import Hosts, hosts_or_skip
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_world import make_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[2]
STEPS, GROUPS, TRAJECTORIES = 8, 4, 2
SAMPLES = STEPS * GROUPS
PORT, MEETING_PORT = 5570, 5571
LIMIT_S = 90.0
CUT_S = 4.0
EPOCHS = 10  # of the run with a cut: there is work when the host is back
_PAUSE_S = 0.05


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), SAMPLES)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_or_skip() as made:
        yield made


class Run:
    """Commands on hosts, and what they wrote."""

    def __init__(self, hosts: Hosts, folder: Path, config: dict[str, Any]) -> None:
        self.hosts = hosts
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder = folder / "run"
        self.folder.mkdir()
        self.broker_address = f"tcp://{hosts.address('a')}:{PORT}"
        config["run"] = {"folder": self.folder, "seed": 7}
        config["broker"] |= {"address": self.broker_address}
        self.config_file = self.folder / "config.toml"
        self.config_file.write_text(dump_toml(build(config)))
        self.keys = folder / "keys"
        hosts.run("a", (sys.executable, "-m", "broker.keys", str(self.keys)), cwd=ROOT)

    def start(
        self, host: str, package: str, *flags: str, name: str = "", **environment: str
    ) -> "subprocess.Popen[bytes]":
        """Python -m PACKAGE.main with the run's configuration; see `output`."""
        command = (sys.executable, "-m", f"{package}.main", "--config", str(self.config_file))
        output = self.folder / f"{name or package}.out"
        process = self.hosts.popen(host, (*command, *flags), environment, output, cwd=ROOT)
        self._processes.append(process)
        return process

    def start_with_keys(
        self, host: str, package: str, *flags: str, name: str = "", **environment: str
    ) -> "subprocess.Popen[bytes]":
        keys = ("--broker.keys", str(self.keys))
        return self.start(host, package, *keys, *flags, name=name, **environment)

    def refusal(self, host: str, package: str, *flags: str, **environment: str) -> str:
        """What a process says that does not start."""
        process = self.start(host, package, *flags, name="refused", **environment)
        assert process.wait(LIMIT_S) not in (0, None)
        return (self.folder / "refused.out").read_text()

    def output(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-6000:]}"
            for path in sorted([*self.folder.glob("*.out"), *self.folder.glob("logs/*.log")])
        )

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """No process may fail until then."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            failed = [one.args for one in self._processes if one.poll()]
            assert not failed and time.monotonic() < deadline, f"not {what}\n{self.output()}"
            time.sleep(_PAUSE_S)

    def steps(self) -> int:
        """Trained so far."""
        path = self.folder / "metrics.jsonl"
        return path.read_text().count('"learner/tokens"') if path.exists() else 0

    def observe(self) -> None:
        """From now on `status` knows what the broker says."""
        command = (sys.executable, "-m", "tests.hosts.observer", self.broker_address)
        command = (*command, str(self.keys), str(self.folder / "status.jsonl"))
        self.hosts.popen("a", command, output=self.folder / "observer.out", cwd=ROOT)
        self.wait_until(lambda: bool(self.status()), "observed")

    def statuses(self) -> list[dict[str, Any]]:
        path = self.folder / "status.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def status(self) -> dict[str, Any]:
        """The newest; empty before there is one."""
        return next(reversed(self.statuses()), {})

    def members(self) -> dict[str, int]:
        """The version that each has acknowledged, by id."""
        members: dict[str, int] = self.status()["members"]
        return members

    def finish(self, *processes: "subprocess.Popen[bytes]") -> None:
        """Every one ends by itself, and well."""
        for process in processes:
            try:
                code = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                pytest.fail(f"{process.args} does not end\n{self.output()}")
            assert code == 0, f"{process.args}: {code}\n{self.output()}"

    def counts(self, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
        """The broker's books, from its journal: replayed, every call came to what it came to."""
        capsys.readouterr()
        journal([str(self.folder), "replay"])
        told = capsys.readouterr().out
        return {name: int(count) for name, count in re.findall(r"^  (\w+) +(\d+)$", told, re.M)}


def config_of(checkpoint: Path, dataset: Path) -> dict[str, Any]:
    return {
        "model": {"path": str(checkpoint), "dtype": "float32", "gradient_checkpointing": False},
        "data": {"train": dataset, "shuffle": False},
        "broker": {"max_staleness": 1},
        "rollout": {
            "engine": "embedded",
            "trajectories_per_sample": TRAJECTORIES,
            "max_response_tokens": 6,
            "threads": 1,
        },
        "objective": {"top_k": 8},
        "learner": {"groups_per_step": GROUPS, "threads": 1, "device": "cpu"},
        "weights": {"dtype": "float32", "backend": "gloo"},
    }


def assert_books_balance(counts: dict[str, int], epochs: int = 1) -> None:
    """Every sample was trained exactly once an epoch, and nothing that was issued is lost."""
    assert counts["samples_trained"] == SAMPLES * epochs, counts
    assert counts["trajectories_trained"] == SAMPLES * TRAJECTORIES * epochs, counts
    for unit in ("samples", "trajectories", "tokens"):
        places = ("trained", "expired", "quarantined", "in_flight", "waiting")
        assert counts[f"{unit}_issued"] == sum(counts[f"{unit}_{p}"] for p in places), counts
        assert counts[f"{unit}_in_flight"] == counts[f"{unit}_waiting"] == 0, counts


def off_loopback(hosts: Hosts, host: str) -> list[Listening]:
    """Where others reach a host: the ports for Prometheus are on loopback."""
    return [one for one in listening(hosts, host) if one.address != LOOPBACK]


def test_three_hosts_by_hand(
    hosts: Hosts,
    tmp_path: Path,
    checkpoint: Path,
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run(hosts, tmp_path, config_of(checkpoint, dataset))
    a, c = hosts.address("a"), hosts.address("c")
    broker = run.start_with_keys("a", "broker")
    learner = run.start_with_keys("c", "learner", "--weights.host", c)
    rollout = run.start_with_keys("b", "rollout")
    run.wait_until(lambda: run.steps() >= 2, "trained two steps")

    (at_the_broker,) = off_loopback(hosts, "a")
    assert at_the_broker[:2] == (a, PORT)
    on_b, on_c = listening(hosts, "b"), off_loopback(hosts, "c")
    assert {one.address for one in on_b} <= {LOOPBACK, hosts.address("b")}, on_b
    assert any("rollout.embedded" in one.command for one in on_b if one.address == LOOPBACK), on_b
    assert {one.address for one in on_c} == {c}, on_c
    assert all("learner.main" in one.command for one in on_c), on_c

    run.finish(learner, rollout, broker)
    assert_books_balance(run.counts(capsys))


def test_learner_ranks_on_two_hosts(
    hosts: Hosts,
    tmp_path: Path,
    checkpoint: Path,
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(checkpoint, dataset)
    config["learner"]["ranks"] = 2
    run = Run(hosts, tmp_path, config)
    b, c = hosts.address("b"), hosts.address("c")
    broker = run.start_with_keys("a", "broker")
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": c, "MASTER_PORT": str(MEETING_PORT)}
    ranks = [
        run.start_with_keys(
            host, "learner", "--weights.host", c,
            name=f"learner-{rank}", RANK=str(rank), LOCAL_RANK="0", **meeting,
        )
        for rank, host in enumerate(("c", "b"))
    ]  # fmt: skip
    rollout = run.start_with_keys("b", "rollout")
    run.wait_until(lambda: run.steps() >= 2, "trained two steps")
    on_c = off_loopback(hosts, "c")
    assert {one.address for one in on_c} == {c}, on_c
    assert MEETING_PORT in {one.port for one in on_c}
    assert {one.address for one in listening(hosts, "b")} <= {LOOPBACK, b}
    run.finish(*ranks, rollout, broker)
    assert_books_balance(run.counts(capsys))


def test_without_keys_nothing_leaves_loopback(
    hosts: Hosts, tmp_path: Path, checkpoint: Path, dataset: Path
) -> None:
    run = Run(hosts, tmp_path, config_of(checkpoint, dataset))
    here = ("--broker.address", "tcp://127.0.0.1:5570")
    c = hosts.address("c")
    for host, package in (("a", "broker"), ("b", "rollout"), ("c", "learner")):
        assert re.search(
            r"broker.address = .*: without keys .* Fix: make keys", run.refusal(host, package)
        )
    refusal = run.refusal("c", "learner", *here, "--weights.host", c)
    assert re.search(rf"weights.host = '{c}': .* without keys .* Fix: .* make keys", refusal)
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "5571"}
    refusal = run.refusal("c", "learner", *here, MASTER_ADDR=c, **ranks)
    assert re.search(rf"MASTER_ADDR = '{c}': .* without keys .* Fix: .* make keys", refusal)


def test_a_host_that_was_cut_off_comes_back(
    hosts: Hosts,
    tmp_path: Path,
    checkpoint: Path,
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is counted as gone, others do its work, and it works again: each sample once."""
    config = config_of(checkpoint, dataset)
    config["broker"]["member_timeout_s"] = 2.0
    config["weights"]["timeout_s"] = 2.0
    config["rollout"]["max_concurrent_groups"] = 2
    config["data"]["epochs"] = EPOCHS
    run = Run(hosts, tmp_path, config)
    broker = run.start_with_keys("a", "broker")
    learner = run.start_with_keys(
        "c", "learner", "--weights.host", hosts.address("c"), "--rollout.servers", "2"
    )
    rollouts = [
        run.start_with_keys(host, "rollout", name=f"rollout-{rank}", RANK=str(rank))
        for rank, host in enumerate(("b", "c"))
    ]
    run.observe()
    run.wait_until(lambda: run.steps() >= 3, "trained three steps")
    assert "rollout-0" in run.members()
    hosts.cut("b")
    steps_then = run.steps()
    time.sleep(CUT_S)
    assert "rollout-0" not in run.members(), run.output()
    hosts.heal("b")
    run.wait_until(lambda: "rollout-0" in run.members(), "a member again")
    version = run.status()["version"]
    run.wait_until(lambda: run.members().get("rollout-0", -1) >= version, "serving again")
    run.finish(learner, *rollouts, broker)

    gone = [row["version"] for row in run.statuses() if "rollout-0" not in row["members"]]
    assert max(gone) > steps_then, "the others stood still"
    assert_books_balance(run.counts(capsys), epochs=EPOCHS)
