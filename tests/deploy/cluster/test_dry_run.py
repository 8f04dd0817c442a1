"""Holds deploy/cluster/by_hand.py."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deploy.cluster.clusters
import deploy.launch
from common.config_cli import build, load
from common.errors import ConfigError
from deploy.cluster.dry_run import dry_run
from deploy.cluster.nodes import Node
from deploy.cluster.process_specs import ROOT
from deploy.quickstart.own import CACHE

HERE = [Node("here", 4)]
THREE = [Node(f"m{index}", 16, 2, "H100", 80, f"10.0.0.{index}") for index in range(3)]


def shown(
    tree: dict[str, Any], nodes: list[Node], *, folder: Path = Path("/runs/x"), **options: Any
) -> str:
    lines: list[str] = []
    dry_run(build(tree), ["--config", "/c.toml"], nodes, folder, show=lines.append, **options)
    return "\n".join(lines)


def blocks(text: str) -> dict[str, list[str]]:
    """The shell lines under each remark."""
    found = re.findall(r"^# (.+)\n((?:.+\n)+)", text + "\n", re.MULTILINE)
    return {remark: lines.splitlines() for remark, lines in found}


def environment(lines: list[str]) -> dict[str, str]:
    words = shlex.split(" ".join(lines[1:]).replace("\\ ", " "))
    return dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))


def test_each_process_has_a_block_to_paste_with_one_address_for_all() -> None:
    tree = {
        "broker": {"address": "tcp://127.0.0.1:0"},
        "rollout": {"servers": 2, "engine": "embedded"},
        "learner": {"ranks": 2},
    }
    steps = blocks(shown(tree, HERE, reserves_cpus=False))
    (keys, *_) = steps
    assert "every user of this machine" in keys
    assert steps.pop(keys)[-1].endswith("-m broker.keys /runs/x/keys")
    names = ["broker", "rollout-0", "rollout-1", "learner-0", "learner-1"]
    assert list(steps) == [f"{name}, on here" for name in names]
    addresses = set()
    for lines in steps.values():
        assert lines[0] == f"cd {ROOT}"
        assert any("--run.folder /runs/x" in line for line in lines)
        assert any("--broker.keys /runs/x/keys" in line for line in lines)
        addresses |= {line.split()[1] for line in lines if "--broker.address" in line}
    assert len(addresses) == 1 and re.fullmatch(r"tcp://127\.0\.0\.1:\d{2,5}", addresses.pop())
    ranks = [environment(steps[f"learner-{rank}, on here"]) for rank in (0, 1)]
    assert ranks[0] | {"RANK": "1", "LOCAL_RANK": "1"} == ranks[1]
    assert ranks[0]["WORLD_SIZE"] == "2" and int(ranks[0]["MASTER_PORT"]) > 0


def test_a_block_means_to_a_shell_what_the_role_says(tmp_path: Path) -> None:
    """Odd paths included: the command is run with a Python that tells what it got."""
    spy = tmp_path / "a python's"
    spy.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([os.getcwd(), os.environ['RANK'], sys.argv[1:]]))\n"
    )
    spy.chmod(0o700)
    folder = tmp_path / "run $HOME 'x'"
    tree = {
        "rollout": {"engine": "embedded"},
        "rollout_pool": {"python": spy},
        "run": {"folder": tmp_path / "other"},
    }
    step = blocks(shown(tree, HERE, folder=folder))["rollout-0, on here"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(step)], cwd="/", capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    working_folder, rank, words = json.loads(done.stdout)
    assert working_folder == str(ROOT) and rank == "0"
    assert words == [
        *("-m", "rollout.main", "--config", "/c.toml", "--run.folder", str(folder)),
        *("--broker.keys", str(folder / "keys")),
        *("--broker.address", "tcp://127.0.0.1:5570"),
    ]


def test_processes_see_the_gpus_that_they_were_given() -> None:
    tree: dict[str, Any] = {
        "rollout": {"engine": "embedded"},
        "learner": {"ranks": 2},
        "rollout_pool": {"gpus": 0.5},
        "learner_pool": {"gpus": 1},
    }
    machine = [Node("here", 8, 3)]
    text = shown(tree, machine)
    assert "rollout-0  here  1 CPU, GPU 2 (0.5 of it)" in text
    assert "memory was not" in text.splitlines()[-1]
    steps = blocks(text)
    names = ("rollout-0", "learner-0", "learner-1")
    seen = [environment(steps[f"{name}, on here"]) for name in names]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["2", "0", "1"]
    assert [one.get("LOCAL_RANK") for one in seen] == [None, "0", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in environment(steps["broker, on here"])
    renamed = blocks(shown(tree, machine, visible=["5", "6", "7"]))["rollout-0, on here"]
    assert environment(renamed)["CUDA_VISIBLE_DEVICES"] == "7"


def test_several_machines_talk_by_their_addresses_and_with_keys() -> None:
    tree: dict[str, Any] = {
        "broker": {"address": "tcp://127.0.0.1:0"},
        "rollout": {"engine": "embedded", "servers": 2},
        "learner": {"ranks": 4},
        "rollout_pool": {"gpus": 1},
        "learner_pool": {"gpus": 1, "nodes": 2},
    }
    text = shown(tree, THREE)
    steps = blocks(text)
    (remark,) = (remark for remark in steps if "keys" in remark)
    assert steps[remark][-1].endswith("-m broker.keys /runs/x/keys")
    processes = {remark: lines for remark, lines in steps.items() if not remark.startswith("first")}
    assert len(processes) == 7
    for lines in processes.values():
        assert any("--broker.keys /runs/x/keys" in line for line in lines)
        assert any("--broker.address tcp://10.0.0.0:5570" in line for line in lines)
    learners = [lines for remark, lines in processes.items() if remark.startswith("learner")]
    first = environment(learners[0])
    assert first["MASTER_ADDR"] == "10.0.0.0" and first["MASTER_PORT"] == "29500"
    assert all("--weights.host 10.0.0.0" in " ".join(lines) for lines in learners)
    assert "learner-2, on m1 (10.0.0.1)" in processes
    assert "Every machine needs this project" in text
    tree["broker"]["keys"] = "/keys"
    assert "broker.keys" not in shown(tree, THREE)


def test_what_the_launcher_would_make_comes_first() -> None:
    config = str(deploy.launch.QUICKSTART)
    lines: list[str] = []
    arguments = ["--config", config, "--rollout.engine", "sglang"]
    dry_run(load(arguments), arguments, HERE, Path("/runs/x"), show=lines.append)
    remarks = list(blocks("\n".join(lines)))
    assert remarks[:2] == ["first, once: the environment", "first, once: the quickstart's world"]
    assert str(CACHE) in "\n".join(lines)


def test_machines_are_shown_before_an_error() -> None:
    lines: list[str] = []
    config = build({"learner_pool": {"gpus": 1}})
    with pytest.raises(ConfigError, match="learner_pool finds no place"):
        dry_run(config, [], HERE, Path("/runs/x"), show=lines.append)
    assert "here  127.0.0.1  4 CPUs  no GPU" in "\n".join(lines)
    assert "It fits" not in "\n".join(lines)


def test_few_cpus_are_no_misfit_on_this_machine_but_no_gpu_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(deploy.cluster.clusters, "this_machine", lambda: Node("tiny", 1))
    deploy.launch.main(["--dry-run", "--rollout.servers", "9"])
    assert "It fits: 11 processes on 1 machine." in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(["--dry-run", "--learner_pool.gpus", "1"])
    assert end.value.code == 2
    assert "learner_pool.gpus = 0 (on CPUs)" in capsys.readouterr().err


def test_nothing_is_written_and_ray_is_not_touched(tmp_path: Path) -> None:
    code = (
        "import sys, deploy.launch\n"
        f"deploy.launch.main(['--dry-run', '--run.folder', {str(tmp_path / 'run')!r}])\n"
        "sys.exit(f'{heavy}' if (heavy := {'ray', 'torch'} & sys.modules.keys()) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_ray_that_is_named_is_asked_for_its_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ray_nodes(address: str) -> list[Node]:
        asked.append(address)
        return [Node("far", 64, host="10.0.0.9")]

    monkeypatch.setattr(deploy.cluster.clusters, "ray_nodes", ray_nodes)
    deploy.launch.main(["--dry-run", "--address", "10.0.0.9:6379"])
    assert asked == ["10.0.0.9:6379"]
    assert "broker, on far (10.0.0.9)" in capsys.readouterr().out


def test_a_ray_that_is_not_there_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(["--dry-run", "--address", "not an address"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "cluster.address (--address) = 'not an address': no HOST:PORT. Fix: give" in said
