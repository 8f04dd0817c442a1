"""The check of a GPU, on a CPU at small sizes, and what it makes of what it finds.

Holds learner/checking/.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from deploy import check_gpu
from deploy.check_gpu import Check, document, group_operations, html, run_part, verdict
from deploy.planning.shape import KNOWN
from learner.checking import findings, kernels
from learner.checking.compared import compare
from learner.checking.findings import Finding
from learner.checking.fused_forms import check_fused_forms
from learner.checking.imagined import check_plan, observed, on_imagined
from learner.checking.shapes import tenth_of_4b
from learner.checking.sizes import SMALL
from learner.checking.step import GIB, layers_that_fit
from learner.checking.versions import check_versions
from learner.model import fla_kernels, tree_attention
from learner.model.ragged_attention import RaggedFlash

CPU = torch.device("cpu")


def test_check_gpu_runs_whole_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        check_gpu.main(["--threads", "1", "--out", str(tmp_path / "out"), "--only", "faults"])
    assert ended.value.code == 0
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    assert found["is_good"] and found["device"] == "CPU" and found["mfu"] is None
    names = {f["name"]: f["outcome"] for f in found["findings"]}
    assert names["gradient that is not finite"] == "ok"
    assert names["out of memory"] == "skipped"
    assert "good: 3 findings" in capsys.readouterr().out


@pytest.mark.slow
def test_every_part_is_good_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        check_gpu.main(["--threads", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "check.json").read_text())
    assert ended.value.code == 0, found
    assert {f["part"] for f in found["findings"]} == set(check_gpu.PARTS)
    by_name = {f["name"]: f for f in found["findings"]}
    assert by_name["tree attention"]["figures"]["gradient_of_key_error"] < 1e-5
    assert by_name["broadcast"]["outcome"] == by_name["files"]["outcome"] == "ok"
    assert by_name["ours"]["figures"]["operators"] > 0 and found["speedup"] > 0
    assert "tree attention" in (tmp_path / "check.html").read_text()


def test_a_kernel_that_computes_something_else_fails() -> None:
    inputs = {"x": torch.randn(64)}
    arguments = (inputs, torch.bfloat16)
    assert compare("same", torch.sin, torch.sin, *arguments).outcome == "ok"
    wrong = compare("wrong", lambda x: torch.sin(x) * 1.05, torch.sin, *arguments)
    assert wrong.outcome == "failed" and "output, gradient_of_x" in wrong.remark
    broken = compare("broken", lambda x: x * float("nan"), torch.sin, *arguments)
    assert broken.outcome == "failed"


def test_fused_norms_and_gates_are_held_to_plain_ones() -> None:
    found = list(check_fused_forms(SMALL, CPU, torch.float32))
    assert [f.name for f in found] == ["norm", "zero-centred norm", "gated norm", "gate of an MLP"]
    for finding in found:
        assert finding.outcome == "ok", finding
        errors = {k: v for k, v in finding.figures.items() if k.endswith("_error")}
        assert {"output_error", "gradient_of_hidden_error"} < errors.keys()
        assert max(errors.values()) < 1e-5


@pytest.fixture
def no_fla(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide flash-linear-attention, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "fla", None)
    fla_kernels.is_installed.cache_clear()
    yield
    fla_kernels.is_installed.cache_clear()


@pytest.mark.usefixtures("no_fla")
def test_without_fla_a_gpu_has_no_fused_forms_to_check() -> None:
    (found,) = check_fused_forms(SMALL, torch.device("cuda"), torch.bfloat16)
    assert found.outcome == "skipped" and "not installed" in found.remark
    delta_net = kernels.delta_net(SMALL, CPU, torch.float32)  # then by the reference
    assert delta_net.outcome == "ok"


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if "linear" in package:
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr("importlib.metadata.version", version)
    (found,) = check_versions(CPU)
    assert found.figures["flash-linear-attention"] == "not installed"
    assert found.figures["torch"] == "1.0" and found.outcome == "ok"


def test_what_leaves_its_device_or_asks_it_for_a_value_is_found() -> None:
    found = observed("both", torch.device("cuda"), lambda: torch.zeros(1).item())
    assert found.outcome == "failed"
    assert found.remark == "waits: _local_scalar_dense; tensors on cpu"


def test_the_hot_path_runs_on_an_imagined_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU here, since this torch may be built without CUDA; by the attention of GPUs."""
    monkeypatch.setattr(tree_attention, "kernels_for", lambda tensor: RaggedFlash())
    decoder, objective = on_imagined(CPU, tenth_of_4b(4, SMALL.vocabulary), SMALL)
    assert decoder.outcome == objective.outcome == "ok", (decoder, objective)
    assert decoder.figures["operators"] > 500 and objective.figures["operators"] > 10


def test_a_torch_without_cuda_imagines_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    (found,) = check_plan(SMALL, is_small=True)
    assert found.outcome == "skipped" and "built without CUDA" in found.remark


def test_a_part_that_dies_or_is_late_is_a_finding() -> None:
    options = argparse.Namespace(small=True, threads=1, budget=0.1)
    (late,) = run_part("kernels", False, options, left_s=0.1)
    assert late.outcome == "failed" and "--budget" in late.remark
    (over,) = run_part("kernels", False, options, left_s=-1.0)
    assert over.outcome == "skipped"
    unknown = run_part("nothing", False, options, left_s=60.0)
    assert unknown[-1].outcome == "failed" and "invalid choice" in unknown[-1].remark


def test_findings_outlive_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    assert findings.read(path) == []
    finding = Finding("step", "ours", "ok", {"seconds": 1.5, "said": "x"})
    findings.append(path, finding)
    with path.open("a") as file:
        file.write('{"part": "st')
    assert findings.read(path) == [finding]


def test_layers_fit_the_memory_of_the_gpu() -> None:
    assert [layers_that_fit(gib * GIB) for gib in (30, 79, 139)] == [4, 12, 32]
    assert layers_that_fit(None) == 32


def test_the_share_of_peak_is_the_published_model_s() -> None:
    """A group takes some 160 TFLOP without recomputation (vision, student x 3, teacher, head)."""
    whole = group_operations(KNOWN["Qwen3.5-4B"], 8)
    assert 1.5e14 < whole < 3e14
    ours = {"layers": 32, "groups": 2, "responses_a_group": 8, "seconds": 1.0}
    check = Check((Finding("step", "ours", "ok", ours),), "NVIDIA H100 80GB HBM3", 1.0)
    assert check.mfu == pytest.approx(2 * whole / 989e12)
    for device in ("CPU", "Somebody's accelerator"):
        assert Check(check.findings, device, 1.0).mfu is None
    half = Check((Finding("step", "ours", "ok", ours | {"layers": 16}),), check.device, 1.0)
    assert check.mfu / 2 < half.mfu < check.mfu


def test_what_is_wrong_is_named_first() -> None:
    bad = Finding("kernels", "objective", "failed", remark="<too far>")
    check = Check((bad, replace(bad, name="checksum", outcome="ok")), "CPU", 2.0)
    assert verdict(check) == "NOT GOOD: kernels: objective"
    assert document(check)["is_good"] is False
    assert "&lt;too far&gt;" in html(check)
