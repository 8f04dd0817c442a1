"""The section of how new weights reach the rollout servers."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig


class WeightsSection(Section):
    backend: Literal["auto", "gloo", "nccl"] = Field("auto", description="auto: nccl on GPUs.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Dtype sent and served.")
    bucket_mib: int = Field(256, gt=0, description="MiB a broadcast.")
    transport: Literal["broadcast", "files"] = Field(
        "broadcast", description="How weights travel: torch.distributed, or a shared folder."
    )
    folder: Path | None = Field(
        None, description="Shared folder of transport = files; none: run.folder/weights."
    )
    timeout_s: float = Field(
        10.0, gt=0, description="Seconds of silence in any one phase of a push."
    )
    load_timeout_s: float = Field(
        120.0, gt=0, description="Seconds for a server to read all weights (transport = files)."
    )
    max_attempts: int = Field(3, gt=0, description="Tries of one push before the run stops.")
    pause_mode: Literal["retract", "in_place", "abort"] = Field(
        "retract",
        description="What becomes of running requests: recomputed, gone on with from their old "
        "KV, or cut and done again.",
    )
    host: str = Field("127.0.0.1", description="The learner's address for the push group.")
    verify_first: int = Field(10, ge=0, description="Pushes verified from the start.")
    verify_every: int = Field(
        20, ge=0, description="Every so many pushes are verified after that; 0: none."
    )
    probe_tolerance: float | None = Field(
        None,
        gt=0,
        description="Mean difference in log-prob (nats) at which a server's weights or caches "
        "count as wrong; none: 0.15 if the learner computes or sends in bfloat16, else 0.002.",
    )


def _old_caches_are_allowed(config: "RunConfig") -> None:
    if config.weights.pause_mode == "in_place" and config.broker.max_staleness == 0:
        raise ValueError(
            "weights.pause_mode = in_place lets responses go on from KV of older weights, "
            "which broker.max_staleness = 0 forbids. Fix: weights.pause_mode = retract, or "
            "broker.max_staleness = 1"
        )


def _nccl_has_gpus(config: "RunConfig") -> None:
    if config.weights.backend == "nccl" and config.learner.device == "cpu":
        raise ValueError(
            "weights.backend = nccl needs a GPU but learner.device = cpu. "
            "Fix: weights.backend = gloo"
        )


CHECKS = (_old_caches_are_allowed, _nccl_has_gpus)
