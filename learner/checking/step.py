"""A whole step in the proportions of the published run, with random weights, beside the published
way in the same process.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from learner.checking.findings import Finding
from learner.checking.launches import Launches
from learner.checking.lengths import PUBLISHED, Lengths, scaled_lengths
from learner.checking.published import PublishedTrainer
from learner.checking.shapes import (
    TRAJECTORIES,
    ModelSize,
    make_batch,
    make_config,
    make_model,
    qwen3_5_4b,
    tenth_of_4b,
)
from learner.model.student import prepare_to_train
from learner.views.inputs import PreparedBatch

GIB = 2**30
# Of a parameter: master, gradient, two moments, average in float32; teacher and cast in bfloat16.
_BYTES_A_PARAMETER = 5 * 4 + 2 * 2
_ROOM = 18 * GIB  # for activations, logits and CUDA itself


@dataclass(frozen=True)
class Plan:
    """A step to measure: model, lengths, groups, and how often."""

    size: ModelSize
    lengths: Lengths
    groups: int
    repeats: int


def plan_for(is_small: bool, free_bytes: int | None) -> Plan:
    """What of the step to measure.

    Args:
        free_bytes: of the device; of a true model so many layers are taken as fit. None means
            no bound.
    """
    if is_small:
        return Plan(tenth_of_4b(4, 512), scaled_lengths(64), groups=1, repeats=1)
    return Plan(qwen3_5_4b(layers_that_fit(free_bytes)), PUBLISHED, groups=2, repeats=3)


def layers_that_fit(free_bytes: int | None) -> int:
    """At least four layers of Qwen3.5-4B, in fours: three gated delta nets and an attention."""
    layers = qwen3_5_4b().layers
    if free_bytes is None:
        return layers
    four, eight = _bytes_of(4), _bytes_of(8)
    more: int = int(free_bytes - _ROOM - four) // (eight - four)
    return int(max(4, min(layers, 4 + 4 * more)))


def _bytes_of(layers: int) -> int:
    model = make_model("qwen3_5", qwen3_5_4b(layers), "meta")
    parameters: int = sum(p.numel() for p in model.parameters())
    return _BYTES_A_PARAMETER * parameters


def check_step(plan: Plan, device: torch.device, dtype: str) -> Iterator[Finding]:
    """Seconds, tokens a second, memory and operators of ours, then of the published way."""
    config = make_config(plan.lengths, plan.groups, dtype)
    model = prepare_to_train(make_model("qwen3_5", plan.size, device), config.model, device)
    trainer = PublishedTrainer(config, model, total_steps=100)

    def batch() -> PreparedBatch:
        version = trainer.version + 1
        return make_batch(version, plan.groups, plan.lengths, model, plan.size.vocabulary)

    ours, metrics = _measured(trainer.step, batch, plan.repeats, device)
    last = batch()
    tokens = sum(g.student.num_tokens + len(r) for g in last.groups for r in g.responses)
    with Launches() as launches:
        trainer.step(last)
    figures = {
        "layers": plan.size.layers,
        "groups": plan.groups,
        "responses_a_group": TRAJECTORIES,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": ours.seconds,
        "tokens_per_s": tokens / ours.seconds,
        "peak_gib": ours.peak_gib,
        "operators": launches.count,
        "is_finite": all(p.isfinite().all().item() for p in model.parameters()),
        **{k.replace("time/", "part_"): v for k, v in metrics.metrics.items() if "time/" in k},
    }
    outcome = "ok" if figures["is_finite"] and metrics.is_updated else "failed"
    yield Finding("step", "ours", outcome, figures)  # type: ignore[arg-type]
    published, _ = _measured(trainer.published_step, batch, plan.repeats, device)
    figures = {
        "seconds": published.seconds,
        "tokens_per_s": tokens / published.seconds,
        "peak_gib": published.peak_gib,
        "speedup": published.seconds / ours.seconds,
    }
    yield Finding("step", "published way", "ok", figures)


@dataclass(frozen=True)
class _Measured:
    seconds: float  # median of the repeats
    peak_gib: float | None  # None means a CPU, where it is not measured


def _measured(
    step: Callable[[PreparedBatch], Any],
    batch: Callable[[], PreparedBatch],
    repeats: int,
    device: torch.device,
) -> tuple[_Measured, Any]:
    """After one step that is not counted; batches are made outside of the time."""
    step(batch())
    seconds: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeats):
        prepared = batch()
        _wait_for(device)
        began = time.perf_counter()
        result = step(prepared)
        _wait_for(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    return _Measured(statistics.median(seconds), peak), result


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
