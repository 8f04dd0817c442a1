"""Which kernels are in force, and which environments must not be started on GPUs."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config_cli import build
from common.errors import ConfigError
from common.gpu_packages import (
    GpuPackages,
    cuda_in,
    gpu_packages,
    gpu_packages_of,
    nccl_package,
    release,
)
from common.gpus import Gpu
from common.kernels import (
    check_learner,
    check_nccl,
    check_torch,
    has_delta_layers,
    kernels_in_force,
    pushes_over_nccl,
)
from learner.model.batched_attention import BatchedFlash
from learner.model.ragged_attention import Plain, RaggedFlash
from learner.model.tree_attention import kernels_for
from learner.trainer import DTYPES

PINNED = GpuPackages("2.14.1", "13.0", "2.30.7", "3.8.0", "0.6.0")
H100 = (Gpu("H100", 80.0, "580.65.06"),)
A100 = (Gpu("A100", 80.0, "580.65.06"),)


def test_an_environment_tells_of_itself_and_of_another_alike() -> None:
    ours = gpu_packages()
    assert ours.torch == torch.__version__ and ours.cuda == torch.version.cuda
    assert gpu_packages_of(Path(sys.executable)) == ours


def test_torchs_own_file_tells_what_it_was_built_for() -> None:
    assert cuda_in("cuda: Optional[str] = '13.0'\ngit_version = 'a'\n") == "13.0"
    assert cuda_in("__all__ = ['cuda', 'x']\ncuda: Optional[str] = None\nhip = '1'\n") is None


def test_nccl_is_the_package_that_torch_depends_on() -> None:
    names = ["numpy", "nvidia-nccl-cu13", "nvidia-cudnn-cu13"]
    assert nccl_package(names) == "nvidia-nccl-cu13"
    assert nccl_package([*names, "nvidia-nccl-cu12"]) is None  # torch has to be asked
    assert nccl_package(["numpy"]) is None


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.14.1+cu130", (2, 14, 1)), ("0.6.0", (0, 6, 0)), ("3.7.1rc1", (3, 7, 1)), (None, ())],
)
def test_versions_are_compared_by_their_numbers(
    version: str | None, numbers: tuple[int, ...]
) -> None:
    assert release(version) == numbers


def test_the_pinned_environment_is_let_in() -> None:
    for gpus in (H100, A100, ()):
        check_learner(PINNED, gpus, has_delta=True)


@pytest.mark.parametrize(
    ("change", "gpus", "message"),
    [
        ({"cuda": None}, H100, r"1 x H100 \(driver 580\.65\.06\), but the learner .* for CPUs"),
        ({}, (Gpu("H100", 80, "570.1"),), r"driver 570\.1.* CUDA 13\.0, which needs.* >= 580"),
        ({"cuda": "12.8"}, (Gpu("A100", 80, "470.5"),), r"driver 470\.5.* >= 525"),
        ({"torch": "2.12.0"}, A100, r"torch 2\.12\.0 is older than 2\.12\.1"),
        ({"fla": None}, A100, "flash-linear-attention is not installed"),
        ({"triton": None}, A100, "Triton is not installed"),
        ({"fla": "0.5.2"}, A100, r"flash-linear-attention 0\.5\.2 is older than 0\.6"),
        ({"triton": "3.7.0"}, H100, r"Triton 3\.7\.0 is older than 3\.7\.1: on 1 x H100"),
    ],
)
def test_what_would_be_wrong_or_slow_is_refused_with_the_fix(
    change: dict[str, Any], gpus: tuple[Gpu, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_learner(replace(PINNED, **change), gpus, has_delta=True)
    assert ". Fix: " in str(caught.value)
    check_learner(replace(PINNED, **change), (), has_delta=True)  # CPUs need none of it


def test_only_what_the_model_and_the_gpu_need_is_asked_for() -> None:
    check_learner(replace(PINNED, fla=None, triton=None), H100, has_delta=False)
    check_learner(replace(PINNED, triton="3.7.0"), A100, has_delta=True)
    check_torch(replace(PINNED, torch=None, cuda=None), H100, "sglang", "x")  # it is not there
    check_torch(PINNED, (Gpu("H100"),), "sglang", "x")  # a driver that does not say its version


def test_two_nccls_are_refused_and_one_that_nobody_knows_is_not() -> None:
    check_nccl(PINNED, PINNED, "SGLang")
    check_nccl(PINNED, replace(PINNED, nccl=None), "SGLang")
    with pytest.raises(ConfigError, match=r"NCCL 2\.30\.7, SGLang's torch 2\.15\.0 has 2\.31\.1"):
        check_nccl(PINNED, replace(PINNED, torch="2.15.0", nccl="2.31.1"), "SGLang")


def test_the_kernels_in_force_are_told_in_one_line() -> None:
    def line(packages: GpuPackages, on_gpu: bool, has_delta: bool, **model: str) -> str:
        section = build({"model": model}).model
        return str(kernels_in_force(packages, section, on_gpu=on_gpu, has_delta=has_delta))

    assert line(PINNED, True, True) == (
        "attention flash, vision sdpa, delta rule fla 0.6.0, norms fla 0.6.0; "
        "torch 2.14.1, CUDA 13.0, NCCL 2.30.7"
    )
    assert line(PINNED, False, True) == (
        "attention flash, vision sdpa, delta rule reference, norms torch; torch 2.14.1"
    )
    assert "delta rule none" in line(PINNED, True, False)
    with_flash = replace(PINNED, flash_attn="2.8.3")
    assert "vision flash_attention_2" in line(with_flash, True, True)
    assert "vision sdpa" in line(with_flash, False, True)
    assert "vision eager" in line(with_flash, True, True, attention="eager")


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", "bfloat16"), ("cpu", "float32"), ("meta", "bfloat16"), ("meta", "float32")],
)
def test_the_attention_that_is_told_is_the_one_that_computes(device: str, dtype: str) -> None:
    """On the meta device, which is none of CPUs, the learner chooses as on a GPU."""
    told = {BatchedFlash: "flash", RaggedFlash: "flash", Plain: "plain"}
    chosen = kernels_for(torch.empty(1, dtype=DTYPES[dtype], device=device))
    model = build({"model": {"dtype": dtype}}).model
    found = kernels_in_force(PINNED, model, on_gpu=device != "cpu", has_delta=False)
    assert found.attention == told[type(chosen)]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"text_config": {"layer_types": ["linear_attention", "full_attention"]}}, True),
        ({"text_config": {"model_type": "qwen3_5_text"}}, True),
        ({"model_type": "qwen3_vl", "text_config": {"layer_types": None}}, False),
        ({"text_config": "odd"}, False),
    ],
)
def test_delta_layers_are_known_by_the_models_config(
    config: dict[str, Any], found: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert has_delta_layers(str(tmp_path)) is found
    assert has_delta_layers("no/such") is False


@pytest.mark.parametrize(
    ("weights", "on_gpu", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"transport": "files"}, True, False),
        ({"backend": "gloo"}, True, False),
    ],
)
def test_nccl_matters_where_pushes_go_over_it(
    weights: dict[str, str], on_gpu: bool, expected: bool
) -> None:
    assert pushes_over_nccl(build({"weights": weights}), on_gpu) is expected
