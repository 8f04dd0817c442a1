"""Faults that a GPU brings: each ends in an error that is caught, and the device stays usable."""

import subprocess
import sys
from collections.abc import Iterator

import torch

from common.config import OptimizerSection
from learner.checking.findings import Finding, outcome_of
from learner.optim import Optimizer

_WAIT_S = 120.0
_ASSERT = """
import torch
table = torch.zeros(4, device="cuda")
try:
    table[torch.tensor([4], device="cuda")].sum().item()
except RuntimeError:
    raise SystemExit(3)
"""


def check_faults(device: torch.device) -> Iterator[Finding]:
    yield bad_gradient(device)
    if device.type != "cuda":
        for name in ("out of memory", "assertion on the device"):
            yield Finding("faults", name, "skipped", remark="needs a GPU")
        return
    yield out_of_memory(device)
    yield device_assertion()


def bad_gradient(device: torch.device) -> Finding:
    """Whether a gradient that is not finite moves no weight."""
    weight = torch.nn.Parameter(torch.ones(8, device=device))
    optimizer = Optimizer([weight], OptimizerSection(warmup_steps=0), total_steps=10)
    weight.grad = torch.full_like(weight, float("nan"))
    _, _, is_updated = optimizer.step(1)
    is_kept = not is_updated and bool((weight == 1).all())
    remark = "" if is_kept else "it was taken"
    return Finding("faults", "gradient that is not finite", outcome_of(is_kept), remark=remark)


def out_of_memory(device: torch.device) -> Finding:
    """Whether an allocation beyond all memory is refused, and what is free stays free."""
    torch.cuda.empty_cache()
    before, total = torch.cuda.mem_get_info(device)
    try:
        torch.empty(2 * total, dtype=torch.uint8, device=device)
        said = ""
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0]
    torch.cuda.empty_cache()
    after, _ = torch.cuda.mem_get_info(device)
    is_good = bool(said) and after >= before - 2**28
    return Finding("faults", "out of memory", outcome_of(is_good), {"free_bytes": after}, said)


def device_assertion() -> Finding:
    """Whether a failed assertion ends its own process alone, with an error and in time."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _ASSERT], capture_output=True, timeout=_WAIT_S, check=False
        )
        is_good, remark = ended.returncode == 3, f"exit code {ended.returncode}"
    except subprocess.TimeoutExpired:
        is_good, remark = False, f"no end within {_WAIT_S:g} s"
    return Finding("faults", "assertion on the device", outcome_of(is_good), remark=remark)
