"""A learner asks what it would compute with before it loads its model."""

import json
from pathlib import Path

import pytest
import torch

from common.config import RunConfig
from common.config_cli import build
from common.errors import ConfigError
from common.gpu_packages import GpuPackages
from learner import start_check as asked
from learner.model.student import choose_device
from learner.start_check import start_check
from tests.common.support import H100, nvidia_smi


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration of a hybrid model, on a machine with a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia_smi(tmp_path, f"echo {H100.replace('550.90.07', '580.65.06')}", monkeypatch)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5"}))
    return build({"model": {"path": str(tmp_path)}})


def test_a_learner_on_cpus_is_told_what_it_computes_with(config: RunConfig) -> None:
    found = start_check(config, on_gpu=False)
    assert (found.delta_rule, found.norms, found.nccl) == ("reference", "torch", None)
    assert found.torch == torch.__version__


def test_kernels_that_are_there_but_cannot_be_imported_are_refused(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = GpuPackages("2.14.1", "13.0", "2.30.7", "3.8.0", "0.6.0")
    monkeypatch.setattr(asked, "gpu_packages", lambda: pinned)
    monkeypatch.setattr(asked, "_RULE", "no_such_kernels")
    with pytest.raises(ConfigError, match=r"no_such_kernels cannot be imported .*Fix: deploy/"):
        start_check(config, on_gpu=True)
    (Path(config.model.path) / "config.json").write_text('{"model_type": "qwen3_vl"}')
    assert start_check(config, on_gpu=True).delta_rule == "none"  # and needs no kernels of it


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU that is here")
def test_a_gpu_that_torch_cannot_use_is_not_passed_over(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"1 x H100 .* cannot use them"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"
