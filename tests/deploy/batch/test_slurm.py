"""deploy/batch/slurm.py, with a Slurm that is made of small scripts and runs the commands here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError
from common.network import local_address_towards
from deploy.batch import slurm
from deploy.batch.slurm import batch_script, submit
from deploy.batch.slurm_ray import no_client_server
from tests import waiting

SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$FAKES/sbatch.words"
if [ -n "${REFUSAL:-}" ]; then echo "sbatch: error: $REFUSAL" >&2; exit 1; fi
echo "4711;some-cluster"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1 $2" in
  "show hostnames") tr ',' '\\n' <<<"$3" ;;
  "show node") echo "NodeName=$3 Arch=x86_64"; echo "   NodeAddr=$NODE_ADDRESS NodeHostName=$3" ;;
esac
"""
# Once a node, with what Slurm says to it; signals reach every process of the step.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$FAKES/srun.calls"
tasks=1
while [[ "$1" == --* ]]; do
  case "$1" in --ntasks=*) tasks=${1#*=} ;; esac
  shift
done
set -m
trap 'for job in $(jobs -pr); do kill -TERM -- "-$job"; done' TERM
for ((id = 0; id < tasks; id++)); do SLURM_NODEID=$id "$@" & done
code=0
while [ -n "$(jobs -pr)" ]; do wait -n || code=$?; done
exit "$code"
"""


class FakeSlurm:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
            (root / name).write_text(text)
            (root / name).chmod(0o755)

    def environment(self, nodes: str = "node1") -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.root}{os.pathsep}{os.environ['PATH']}",
            "FAKES": str(self.root),
            "SLURM_JOB_ID": f"test{os.getpid()}",
            "SLURM_JOB_NODELIST": nodes,
        }

    def start(
        self, script: Path, nodes: str = "node1", **environment: str
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(script)],
            env={**self.environment(nodes), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fakes = FakeSlurm(tmp_path / "fakes")
    monkeypatch.setenv("PATH", fakes.environment()["PATH"])
    monkeypatch.setenv("FAKES", str(fakes.root))
    return fakes


def config_for(folder: Path, **sections: dict) -> RunConfig:
    run = {"folder": folder, "name": "my run"}
    return build({"run": run, "rollout": {"engine": "embedded"}, **sections})


def headers(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    return [line.removeprefix("#SBATCH ") for line in lines]


def variables(script: str, *names: str) -> list[str]:
    """What the shell makes of the variables that stand above the body."""
    head = script[: script.index("\nset -euo pipefail")]
    words = " ".join(f'"${{{name}[@]}}"' for name in names)
    shown = subprocess.run(
        ["bash", "-c", f"{head}\nprintf '%s\\0' {words}"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return shown.stdout.split("\0")[:-1]


def test_headers_come_from_the_pools(tmp_path: Path) -> None:
    config = config_for(
        tmp_path,
        learner={"ranks": 16},
        learner_pool={"nodes": 2, "gpus": 1, "cpus": 8, "labels": ["pool=learner"]},
        rollout={"servers": 12, "engine": "embedded"},
        rollout_pool={"gpus": 1, "labels": ["pool=rollout", "ray.io/accelerator-type=H100"]},
        cluster={"gpus_per_node": 8, "slurm_options": ["--partition=gpu", "-A", "x y"]},
    )
    script = batch_script(config, [])
    assert headers(script) == [
        "--job-name=my-run",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--cpus-per-task=65",
        "--gpus-per-node=8",
        f"--output={tmp_path}/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:TERM@120",
        f"--chdir={Path.cwd()}",
        "--partition=gpu",
        "-A x\\ y",
    ]
    # Ray labels its accelerators itself and refuses others' labels in its name.
    assert variables(script, "labels") == 2 * ["pool=learner"] + 2 * ["pool=rollout"]
    assert variables(script, "is_gpu", "cpus") == ["1", "65"]


def test_the_warning_leaves_time_to_drain(tmp_path: Path) -> None:
    script = batch_script(config_for(tmp_path, cluster={"drain_s": 200}), [])
    assert "--signal=B:TERM@260" in headers(script)


@pytest.mark.parametrize("option", ["--gres=gpu:h100:4", "-G4", "--gpus-per-task=4"])
def test_a_sites_own_way_to_ask_for_gpus_replaces_ours(option: str, tmp_path: Path) -> None:
    cluster = {"gpus_per_node": 4, "slurm_options": [option]}
    found = headers(batch_script(config_for(tmp_path, cluster=cluster), []))
    assert [line for line in found if "gpu" in line or "-G" in line] == [option]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cluster\.gpus_per_node is not set.* Fix: "):
        batch_script(config_for(tmp_path, rollout_pool={"gpus": 1}), [])
    with pytest.raises(ConfigError, match=r"^cluster\.slurm_options begins with 'gpu'.* Fix: "):
        batch_script(config_for(tmp_path, cluster={"slurm_options": ["gpu"]}), [])
    with pytest.raises(ConfigError, match=r"^run\.folder is not set\. Fix: "):
        batch_script(build({}), [])
    with pytest.raises(ConfigError, match=r"Slurm reads no such path\. Fix: "):
        batch_script(config_for(tmp_path / "a\nb"), [])


def test_odd_paths_and_words_reach_the_launcher_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a 'run' of $HOME \"#1\" 50% ü"
    words = ["--config", "my $file.toml", "--run.name", "it's \\ `date`"]
    script = batch_script(config_for(folder), words, launcher=["/a b/python", "-m", "x"])
    expected = [str(folder), *words, "--run.folder", str(folder), "/a b/python", "-m", "x"]
    assert variables(script, "run", "arguments", "launcher") == expected
    output = next(line for line in headers(script) if line.startswith("--output="))
    # sbatch reads a word as a shell does where nothing but backslashes is special.
    assert shlex.split(output) == [f"--output={folder}/slurm-%j.log".replace("50%", "50%%")]
    assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=30).returncode == 0


def test_each_node_is_set_up_for_its_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "is_set_up_here", lambda python: True)
    pools = {
        "learner_pool": {"labels": ["pool=learner"]},
        "rollout_pool": {"labels": ["pool=rollout"], "nodes": 1},
    }
    script = batch_script(config_for(tmp_path, **pools, rollout={"engine": "sglang"}), [])
    assert variables(script, "set_ups") == ["run", "run sglang"]
    pools["rollout_pool"]["python"] = Path("/opt/python")
    script = batch_script(config_for(tmp_path, **pools, rollout={"engine": "sglang"}), [])
    assert variables(script, "set_ups", "pythons") == ["run", "", sys.executable, "/opt/python"]


def test_ray_opens_no_port_for_its_client() -> None:
    class Parameters:
        ray_client_server_port: int | None = 10001

    parameters = Parameters()
    no_client_server(parameters, True)
    assert parameters.ray_client_server_port is None


# ---- submitting


def test_submit_writes_the_script_and_returns_the_job(tmp_path: Path, fakes: FakeSlurm) -> None:
    folder = tmp_path / "a run"
    assert submit(config_for(tmp_path), ["--run.seed", "3"], folder) == "4711"
    words = (fakes.root / "sbatch.words").read_text().splitlines()
    assert words == ["--parsable", str(folder / "slurm.sh")]
    script = (folder / "slurm.sh").read_text()
    assert variables(script, "run", "arguments") == [
        str(folder), "--run.seed", "3", "--run.folder", str(folder),
    ]  # fmt: skip


def test_submit_tells_what_sbatch_refused(
    tmp_path: Path, fakes: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSAL", "invalid account")
    with pytest.raises(ConfigError, match=r"sbatch: error: invalid account\. Fix: .*slurm_options"):
        submit(config_for(tmp_path), [], tmp_path / "runs" / "new")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    (tmp_path / "run" / "slurm.sh").write_text("of the job before")
    going_on = config_for(tmp_path, run={"folder": tmp_path / "run", "resume": True})
    with pytest.raises(ConfigError, match="invalid account"):
        submit(going_on, [], tmp_path / "run")
    assert (tmp_path / "run" / "slurm.sh").read_text() == "of the job before"


def test_submit_needs_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no sbatch in PATH\. Fix: "):
        submit(config_for(tmp_path), [], tmp_path / "run")


def test_submit_does_not_mix_two_runs(tmp_path: Path, fakes: FakeSlurm) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match=r"holds a run already\. Fix: .*--run\.resume true"):
        submit(config_for(tmp_path), [], tmp_path)
    going_on = config_for(tmp_path, run={"folder": tmp_path, "resume": True})
    assert submit(going_on, ["--run.resume", "true"], tmp_path) == "4711"


# ---- running

# In place of the launcher: writes what it was given and what Ray has, then ends or waits for TERM.
LAUNCHER = r"""
import json, os, signal, subprocess, sys, time
from pathlib import Path
folder, mode, *arguments, flag, address = sys.argv[1:]
folder = Path(folder)
assert flag == "--address"  # last: a resumed run's own configuration names its first Ray
import ray
ray.init(address=address, log_to_driver=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
def pid_there(): return os.getpid()
pids = [
    ray.get(ray.remote(pid_there).options(
        num_cpus=1, label_selector={"pool": name}).remote(), timeout=40)
    for name in os.environ["POOLS"].split(",")
]
connect = "from ray._raylet import GcsClient; import sys; GcsClient(address=sys.argv[1])"
stranger, friend = [
    subprocess.run([sys.executable, "-c", connect, address], env={**os.environ, **other},
                   capture_output=True, text=True, timeout=60)
    for other in ({"RAY_AUTH_TOKEN": "0" * 64}, {})
]
(folder / "seen.json").write_text(json.dumps({
    "arguments": arguments,
    "processes": [p.read_bytes().replace(b"\0", b" ").decode() for p in
                  Path("/proc").glob("[0-9]*/cmdline") if p.exists()],
    "address": address,
    "hosts": [node["NodeManagerAddress"] for node in nodes],
    "labels": sorted(node["Labels"].get("pool", "") for node in nodes),
    "pids": pids,
    "codes": [stranger.returncode, friend.returncode],
    "stranger_says": stranger.stderr[-2000:],
    "usage": os.environ["RAY_USAGE_STATS_ENABLED"],
    "token_mode": oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o777),
}))
if mode == "end":
    sys.exit(3)
def drain(number, frame):
    (folder / "drained").touch()
    time.sleep(1.5)  # for so long it is waited for
    sys.exit(130)
signal.signal(signal.SIGTERM, drain)
(folder / "ready").touch()
time.sleep(100)
"""


def write_job(folder: Path, mode: str, arguments: list[str], **sections: dict) -> Path:
    """A job of a checkout whose set-up only writes down what it is asked for."""
    folder.mkdir(exist_ok=True)
    checkout = folder.parent / "a checkout"
    (checkout / "deploy").mkdir(parents=True)
    set_up = checkout / "deploy" / "setup.sh"
    set_up.write_text(f'#!/bin/sh\necho "$SLURM_NODEID $1" >>{shlex.quote(str(folder))}/set-ups\n')
    set_up.chmod(0o755)
    stand_in = folder.parent / "stand_in.py"
    stand_in.write_text(LAUNCHER)
    launcher = [sys.executable, str(stand_in), str(folder), mode]
    script = batch_script(config_for(folder, **sections), arguments, launcher)
    root = f"root={shlex.quote(str(slurm.ROOT))}\n"
    assert root in script
    script = script.replace(root, f"root={shlex.quote(str(checkout))}\n")
    (folder / "slurm.sh").write_text(script)
    return folder / "slurm.sh"


def processes_of_the_job() -> list[str]:
    """Command lines of every process that has the job's Ray folder in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"vopd-test{os.getpid()}-" in words:
            found.append(words)
    return found


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    def is_so() -> bool:
        is_alive = process.poll() is None  # before the last look at the condition
        found = condition()
        assert found or is_alive, process.communicate()[0]
        return found

    waiting.wait_until(is_so)


def seen_by_the_launcher(folder: Path) -> dict:
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["codes"] == [1, 0] and "InvalidAuthToken" in seen["stranger_says"]
    assert seen["token_mode"] == "0o600" and seen["usage"] == "0"
    servers = [words for words in seen["processes"] if "ray.util.client.server" in words]
    assert not [words for words in servers if seen["address"] in words]  # others have theirs
    return seen


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_of_the_job() == []
    assert not list(Path("/tmp").glob(f"vopd-test{os.getpid()}-*"))
    assert not (folder / "ray-token").exists()


@pytest.mark.slow
def test_a_job_on_one_node_runs_the_launcher_beside_ray(tmp_path: Path, fakes: FakeSlurm) -> None:
    folder = tmp_path / "a run"
    labels = {"learner_pool": {"labels": ["pool=learner"]}}
    script = write_job(folder, "end", ["--run.name", "two words"], **labels)
    job = fakes.start(script, POOLS="learner")
    output, _ = job.communicate(timeout=150)
    assert job.returncode == 3, output  # the launcher's own
    seen = seen_by_the_launcher(folder)
    assert seen["arguments"] == ["--run.name", "two words", "--run.folder", str(folder)]
    assert seen["hosts"] == ["127.0.0.1"] and seen["address"].startswith("127.0.0.1:")
    assert seen["labels"] == ["learner"] and len(seen["pids"]) == 1
    assert_nothing_is_left(folder)


@pytest.mark.slow
def test_a_job_on_two_nodes_labels_each_for_its_pool(tmp_path: Path, fakes: FakeSlurm) -> None:
    own = local_address_towards("192.0.2.1")  # an address of nobody: where the default route starts
    if own is None:
        pytest.skip("this machine has no address beside loopback")
    folder = tmp_path / "run"
    pools = {
        "learner_pool": {"labels": ["pool=learner"]},
        "rollout_pool": {"labels": ["pool=rollout"], "nodes": 1},
    }
    script = write_job(folder, "end", ["--run.seed", "1"], **pools)
    (folder / "config.toml").touch()  # an earlier attempt of this job began the run
    job = fakes.start(script, "node1,node2", POOLS="learner,rollout", NODE_ADDRESS=own)
    output, _ = job.communicate(timeout=150)
    assert job.returncode == 3, output
    seen = seen_by_the_launcher(folder)
    resume = ["--config", str(folder / "config.toml"), "--run.resume", "true"]
    assert seen["arguments"] == resume
    assert seen["labels"] == ["learner", "rollout"] and seen["hosts"] == [own, own]
    assert len(set(seen["pids"])) == 2
    assert_nothing_is_left(folder)


@pytest.mark.slow
def test_sigterm_reaches_the_launcher_which_may_drain(tmp_path: Path, fakes: FakeSlurm) -> None:
    folder = tmp_path / "run"
    labels = {"learner_pool": {"labels": ["pool=learner"]}}
    job = fakes.start(write_job(folder, "wait", [], **labels), POOLS="learner")
    wait_until((folder / "ready").exists, job)
    job.send_signal(signal.SIGTERM)  # as --signal=B:TERM does: to the script alone
    output, _ = job.communicate(timeout=waiting.LIMIT_S)
    assert job.returncode == 130, output  # it was waited for
    assert (folder / "drained").exists() and "the run drains" in output
    assert_nothing_is_left(folder)


def test_sigterm_before_the_launcher_ends_the_job(tmp_path: Path, fakes: FakeSlurm) -> None:
    folder = tmp_path / "run"
    script = write_job(folder, "wait", [])
    set_up = tmp_path / "a checkout" / "deploy" / "setup.sh"
    set_up.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(folder))}/begun\nexec sleep 50\n")
    text = script.read_text()
    script.write_text(re.sub(r"^set_ups=.*", "set_ups=(run)", text, flags=re.MULTILINE))
    job = fakes.start(script)
    wait_until((folder / "begun").exists, job)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=waiting.LIMIT_S)
    assert job.returncode == 143, output


@pytest.mark.parametrize(
    ("set_up", "nodes", "complaint"),
    [
        ("exit 1", "node1", "a node's environment could not be made"),
        ("exit 0", "node1,node2", "2 nodes were allotted, not 1. Fix: "),
    ],
)
def test_a_job_that_cannot_start_says_why(
    set_up: str, nodes: str, complaint: str, tmp_path: Path, fakes: FakeSlurm
) -> None:
    script = write_job(tmp_path / "run", "end", [])
    (tmp_path / "a checkout" / "deploy" / "setup.sh").write_text(f"#!/bin/sh\n{set_up}\n")
    text = script.read_text()
    script.write_text(re.sub(r"^set_ups=.*", "set_ups=(run)", text, flags=re.MULTILINE))
    job = fakes.start(script, nodes)
    output, _ = job.communicate(timeout=waiting.LIMIT_S)
    assert job.returncode == 1 and f"job failed: {complaint}" in output
