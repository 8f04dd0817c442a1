"""Sections of what is measured while a run goes on, who reads it, and what the figures decide."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from common.network import is_loopback
from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig


_Action = Literal["off", "warn", "pause", "roll_back", "stop"]


class HealthSection(Section):
    """Gates on a run's figures. A gate acts when its figure is out of bounds `patience` times."""

    action: _Action = Field(
        "warn",
        description="What a gate does: warn; pause (wait for SIGUSR1); roll_back to a checkpoint; "
        "stop.",
    )
    patience: int = Field(3, gt=0, description="Steps in a row out of bounds before a gate acts.")
    warmup_steps: int = Field(5, ge=0, description="Steps whose mean is the baseline of the gates.")
    divergence_growth: float | None = Field(
        2.0, gt=1, description="Teacher-student divergence over its baseline, at most; none: off."
    )
    entropy_shrink: float | None = Field(
        0.2, gt=0, lt=1, description="Student entropy over its baseline, at least; none: off."
    )
    length_growth: float | None = Field(
        2.5, gt=1, description="Mean response length over its baseline, at most; none: off."
    )
    accuracy_drop: float | None = Field(
        0.05, gt=0, lt=1, description="Full-image accuracy below its best, at most; none: off."
    )
    mismatch_kl_nats: float | None = Field(
        0.1, gt=0, description="KL between rollout and learner, at most; none: off."
    )
    sample_mismatch_kl_nats: float | None = Field(
        0.1,
        gt=0,
        description="KL between rollout and learner of one sample that stands out of its step, at "
        "most; beyond it the sample is named: did the engine see another picture? none: off.",
    )
    roll_back_lr_factor: float = Field(
        0.5, gt=0, le=1, description="The learning rate is multiplied by it at each roll-back."
    )
    max_roll_backs: int = Field(
        2, ge=0, description="Times that a run may roll back; then it stops."
    )


class EvaluationSection(Section):
    """Held-out accuracy, which the rollout servers measure while training goes on."""

    every_steps: int = Field(0, ge=0, description="Steps between measurements; 0: none.")
    samples: int = Field(0, ge=0, description="Samples measured at first and last; 0: all.")
    interim_samples: int = Field(128, gt=0, description="Held-out samples measured in between.")
    max_response_tokens: int = Field(64, gt=0, description="Tokens; greedy answers are cut there.")
    timeout_s: float = Field(
        600.0, gt=0, description="Seconds for one measurement; then the run goes on without it."
    )
    shown: int = Field(12, ge=0, description="Held-out scenes kept for the report.")


class ScrapeSection(Section):
    """Where Prometheus reads figures: each process has a port of its own for GET /metrics."""

    enabled: bool = Field(True, description="Whether the processes have such ports.")
    host: str = Field(
        "127.0.0.1", description="Address that they listen on; off loopback key_file is needed."
    )
    port: int = Field(
        0, ge=0, lt=65536, description="First of 64 ports that each tries; 0 takes a free one."
    )
    key_file: Path | None = Field(
        None,
        description="File with the key that Prometheus must send (credentials_file); none: on "
        "loopback every user of the machine may read the figures.",
    )


def _held_out_samples_are_named(config: "RunConfig") -> None:
    if config.evaluation.every_steps and config.data.heldout is None:
        raise ValueError(
            "evaluation.every_steps is set but data.heldout is not. "
            "Fix: name a held-out Parquet file, or set evaluation.every_steps = 0"
        )


def _roll_back_has_a_checkpoint(config: "RunConfig") -> None:
    kept_steps = config.checkpoint.every_steps * (config.checkpoint.keep - 1)
    if config.health.action == "roll_back" and kept_steps <= config.health.patience:
        raise ValueError(
            "health.action = roll_back needs a checkpoint from before it went wrong: of "
            f"{config.health.patience} steps (health.patience) and more ago. "
            "Fix: set checkpoint.every_steps, or raise checkpoint.keep"
        )


def _figures_off_loopback_need_a_key(config: "RunConfig") -> None:
    scrape = config.scrape
    if scrape.enabled and scrape.key_file is None and not is_loopback(scrape.host):
        raise ValueError(
            f"scrape.host = {scrape.host!r} shows the figures to the network, and scrape.key_file "
            "is not set. Fix: name a file with a key, e.g. (umask 077; openssl rand -hex 32 > "
            'FILE), or scrape.host = "127.0.0.1"'
        )


CHECKS = (
    _held_out_samples_are_named,
    _roll_back_has_a_checkpoint,
    _figures_off_loopback_need_a_key,
)
