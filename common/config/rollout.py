"""Sections of the rollout servers and of the engines that they start."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from common.engines import ENGINES, EngineName, engine_of
from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig


class RolloutSection(Section):
    engine: EngineName = Field(
        "sglang", description="Generation engine; embedded is ours, for CPUs and tests."
    )
    servers: int = Field(1, gt=0, description="Rollout servers to place.")
    engine_urls: tuple[str, ...] = Field(
        (), description="Attach to these running engines instead of starting one."
    )
    host: str = Field("127.0.0.1", description="Address that a started engine listens on.")
    port: int = Field(0, ge=0, lt=65536, description="Port of the engine; 0 takes a free one.")
    trajectories_per_sample: int = Field(8, gt=0, le=1024, description="Trajectories a sample (n).")
    temperature: float = Field(
        1.0, gt=0, description="Sampling temperature; scoring divides by it too."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling share; 1 is off.")
    top_k: int = Field(-1, ge=-1, description="Sample among the k likeliest; -1 is off.")
    max_response_tokens: int = Field(1024, gt=0, description="Tokens; longer answers are cut.")
    max_concurrent_groups: int = Field(16, gt=0, description="Groups in flight per server.")
    request_timeout_s: float = Field(600.0, gt=0, description="Seconds for one generation.")
    start_timeout_s: float = Field(600.0, gt=0, description="Seconds for the engine to come up.")
    max_restarts: int = Field(
        5, ge=0, description="Times that an engine which died is started again, within an hour."
    )
    deterministic: bool = Field(
        False, description="Same tokens and log-probs whatever else is in the batch (slower)."
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="CPU threads of an embedded engine. For the last measurement, when nothing is "
        "trained any more, it takes its share of the cores, unless it is deterministic.",
    )


class SglangSection(Section):
    """Start of SGLang. For a server that runs already (engine_urls) only the key is used."""

    python: Path | None = Field(
        None, description="Python of SGLang's environment; none: .venv-sglang beside the code."
    )
    tensor_parallel: int = Field(1, gt=0, description="GPUs that one server is split over.")
    memory_fraction: float | None = Field(
        None, gt=0, lt=1, description="Share of GPU memory for weights and KV; none: SGLang's."
    )
    context_tokens: int | None = Field(
        None, gt=0, description="Longest prompt and response together; none: the model's."
    )
    max_total_tokens: int | None = Field(
        None, gt=0, description="Tokens of the KV pool; none: SGLang's choice, 65536 on a CPU."
    )
    max_states: int | None = Field(
        None,
        gt=0,
        description="Slots for recurrent states (Qwen3.5), five a running request; none: SGLang's "
        "choice, four on a CPU.",
    )
    quantization: str | None = Field(None, description="SGLang's --quantization; none: none.")
    extra_flags: tuple[str, ...] = Field(
        (), description="Further flags of sglang.launch_server, word by word."
    )
    api_key_file: Path | None = Field(
        None,
        description="File with the key of the engines' HTTP ports, needed off loopback; none: "
        "a new key for each engine that is started.",
    )


def _importance_weights_are_right(config: "RunConfig") -> None:
    truncates = config.rollout.top_p < 1 or config.rollout.top_k > 0
    if truncates and config.objective.importance_clip is not None:
        raise ValueError(
            "rollout.top_p / rollout.top_k truncate the sampling law, which makes "
            "importance weights wrong. Fix: top_p = 1 and top_k = -1, or "
            'objective.importance_clip = "none"'
        )


def _engine_is_deterministic(config: "RunConfig") -> None:
    if config.rollout.deterministic and not engine_of(config).is_deterministic:
        able = " or ".join(f'"{name}"' for name, kind in ENGINES.items() if kind.is_deterministic)
        raise ValueError(
            f"rollout.deterministic needs rollout.engine = {able} for now. "
            "Fix: set rollout.deterministic = false"
        )


CHECKS = (_importance_weights_are_right, _engine_is_deterministic)
