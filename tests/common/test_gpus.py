"""The machine's GPUs, as programs that stand for nvidia-smi tell of them."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.gpus import Gpu, idle_gpu, machine_gpus, parse_gpus, refuse_idle_gpus, told, usable_gpus
from tests.common.support import H100, nvidia_smi


def test_gpus_are_read_from_the_answer_of_nvidia_smi() -> None:
    answer = f"{H100}\nTesla V100-SXM2-16GB, [N/A], 580.65.06\nNVIDIA A100-SXM4-40GB, 40960 MiB\n"
    assert parse_gpus(answer) == (
        Gpu("H100", 81559 / 1024, "550.90.07"),
        Gpu("V100", 0.0, "580.65.06"),
        Gpu("A100", 40.0, ""),
    )
    assert parse_gpus("\n") == ()


@pytest.mark.parametrize(
    ("model", "is_hopper"), [("H100", True), ("H200", True), ("GH200", True), ("A100", False)]
)
def test_hopper_is_told_by_its_models(model: str, is_hopper: bool) -> None:
    assert Gpu(model).is_hopper is is_hopper


def test_gpus_are_told_with_the_driver_that_is_to_be_fixed() -> None:
    assert told((Gpu("H100", 80, "550.90.07"),) * 8) == "8 x H100 (driver 550.90.07)"
    assert told((Gpu("H100"),)) == "1 x H100"


def test_only_gpus_that_are_visible_are_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, f"echo {H100}; echo {H100}; echo {H100}", monkeypatch)
    for visible, count in (("0,2", 2), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("GPU-5a", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert len(usable_gpus()) == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(usable_gpus()) == len(machine_gpus()) == 3


def test_an_idle_gpu_is_one_of_ours_that_holds_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert idle_gpu() is None  # no driver
    lines = ("0, GPU-aa, 70000 MiB", "1, GPU-bb, 4 MiB", "2, GPU-cc, 4 MiB")
    nvidia_smi(tmp_path, "; ".join(f"echo '{line}'" for line in lines), monkeypatch)
    for visible, name in (("0,2", "GPU-cc"), ("GPU-b", "GPU-bb"), ("0", None), ("", None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert idle_gpu() == name
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert idle_gpu() == "GPU-bb"


def test_a_torch_that_finds_no_gpu_where_there_are_some_is_refused_with_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse_idle_gpus("2.14.1")  # no driver, no GPU
    nvidia_smi(tmp_path, f"echo {H100}", monkeypatch)
    message = r"has 1 x H100 \(driver 550\.90\.07\), and torch 2\.14\.1 cannot.*Fix: a driver that"
    with pytest.raises(ConfigError, match=message):
        refuse_idle_gpus("2.14.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refuse_idle_gpus("2.14.1")
