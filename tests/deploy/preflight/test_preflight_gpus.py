"""A start on a machine with GPUs: fake drivers and environments, as programs that answer.

Holds common/engines/packages.py.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from broker.protocol import MemberStatus, Role
from common.config import RunConfig
from common.config_cli import build
from common.engines.packages import check_server, server_nccl
from common.errors import ConfigError
from common.gpu_packages import GpuPackages
from deploy.preflight.gpus import check_gpus, is_hybrid, kernel_lines
from deploy.status import kernels_text
from tests.common.support import H100, nvidia_smi
from tests.deploy.showing.support import status

PINNED = GpuPackages("2.14.1", "13.0", "2.30.7", "3.8.0", "0.6.0")


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    newer = H100.replace("550.90.07", "580.65.06")
    nvidia_smi(tmp_path, f"echo {newer}", monkeypatch)


def python(folder: Path, name: str, packages: GpuPackages) -> str:
    """An interpreter that tells of these packages, whatever it is asked."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{json.dumps(asdict(packages))}'\n")
    program.chmod(0o755)
    return str(program)


def run_on(
    folder: Path,
    learner: GpuPackages = PINNED,
    server: GpuPackages = PINNED,
    **sections: dict[str, Any],
) -> RunConfig:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen3_5"}')
    return build(
        {
            "model": {"path": str(model)},
            "rollout": {"engine": "sglang"},
            "learner_pool": {"python": python(folder, "learner", learner)},
            "sglang": {"python": python(folder, "server", server)},
            **sections,
        }
    )


def test_environments_that_suit_the_gpus_are_let_in_and_shown(tmp_path: Path) -> None:
    config = run_on(tmp_path)
    check_gpus(config)
    assert dict(kernel_lines(config)) == {
        "learner": "attention flash, vision sdpa, delta rule fla 0.6.0, norms fla 0.6.0; "
        "torch 2.14.1, CUDA 13.0, NCCL 2.30.7",
        "rollout": "SGLang's own; torch 2.14.1, NCCL 2.30.7",
    }
    assert server_nccl(config) == {"nccl": "2.30.7"}


@pytest.mark.parametrize(
    ("learner", "server", "message"),
    [
        ({"cuda": None, "torch": "2.13.0+cpu"}, {}, r"torch 2\.13\.0\+cpu is a build for CPUs"),
        ({"fla": None}, {}, "flash-linear-attention is not installed"),
        ({}, {"cuda": None}, r"sglang environment's torch 2\.14\.1 is a build for CPUs"),
        ({}, {"nccl": "2.29.7"}, r"SGLang's torch 2\.14\.1 has 2\.29\.7"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(
    learner: dict[str, Any], server: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = run_on(tmp_path, replace(PINNED, **learner), replace(PINNED, **server))
    with pytest.raises(ConfigError, match=message):
        check_gpus(config)


def test_a_learner_on_cpus_needs_no_kernels(tmp_path: Path) -> None:
    slow = replace(PINNED, fla=None, nccl="2.1.0")
    config = run_on(tmp_path, slow)
    learner = config.learner.model_copy(update={"device": "cpu"})
    config = config.model_copy(update={"learner": learner})
    check_gpus(config)
    assert "delta rule reference" in dict(kernel_lines(config))["learner"]


def test_without_a_visible_gpu_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = run_on(tmp_path, sglang={"python": "/no/such"})
    check_gpus(config)
    assert server_nccl(config) == {} and list(dict(kernel_lines(config))) == ["learner"]


def test_an_environment_that_does_not_run_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    config = run_on(tmp_path, sglang={"python": str(broken)})
    with pytest.raises(ConfigError, match=r"SGLang's environment does not run .*Fix: deploy/set"):
        check_server(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen/Qwen3.5-4B", True), ("Qwen/Qwen3-VL-4B-Instruct", False), ("of/nobody", False)],
)
def test_a_model_of_the_hub_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_hybrid(name) is expected


def test_the_status_shows_the_learners_kernels() -> None:
    told = "attention flash; torch 2.14.1"
    member = MemberStatus(
        member_id="learner-0", role=Role.LEARNER, silent_s=0.0, acknowledged_version=0,
        gauges={}, details={"host": "a", "kernels": told},
    )  # fmt: skip
    shown = status()
    assert kernels_text(shown.model_copy(update={"members": (member,)})) == f"kernels: {told}"
    assert kernels_text(shown.model_copy(update={"members": ()})) == ""
