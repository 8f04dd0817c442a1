"""Sections of the learner: its ranks and steps, its optimizer, its checkpoints."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig


class OptimizerSection(Section):
    lr: float = Field(2e-6, gt=0, description="Learning rate after warm-up.")
    final_lr_share: float = Field(
        1.0, ge=0, le=1, description="Linear decay to this share of lr at the last step; 1: none."
    )
    warmup_steps: int = Field(10, ge=0, description="Steps of linear warm-up.")
    warmup_from_zero: bool = Field(
        True, description="As published: the first step has lr 0. false: lr / warmup_steps."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW moment decays.")
    eps: float = Field(1e-8, gt=0, description="AdamW epsilon.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Global gradient-norm clip.")


class LearnerSection(Section):
    ranks: int = Field(
        1, gt=0, description="Learner processes that share one model (FSDP2), one a GPU."
    )
    shard_ranks: int | None = Field(
        None,
        gt=0,
        description="Neighbouring ranks that hold one copy of the model between them (HSDP); none: "
        "those of a machine if there are several, else all.",
    )
    groups_per_step: int = Field(96, gt=0, description="Groups (samples) an optimizer step.")
    max_steps: int | None = Field(None, gt=0, description="Stop after these steps; none: all data.")
    micro_batch_tokens: int | None = Field(
        None,
        gt=0,
        description="Student tokens in one forward pass; bounds memory. none: what the learner's "
        "GPUs have room for, as deploy.plan counts it; else 9216.",
    )
    teacher_batch_tokens: int = Field(
        18432, gt=0, description="Teacher tokens in one forward pass (it keeps no activations)."
    )
    render_processes: int | None = Field(
        None,
        ge=0,
        description="Processes a rank that decode images ahead of need; 0: a thread does it; none: "
        "4 beside a GPU, else 0.",
    )
    render_ahead_mib: int = Field(
        1024, gt=0, description="MiB of rendered images kept, those needed soon included."
    )
    offload: bool = Field(
        False, description="Keep sharded weights and moments in main memory between passes."
    )
    rank_timeout_s: float = Field(
        600.0, gt=0, description="Seconds that a rank waits for the others before it gives up."
    )
    threads: int | None = Field(None, gt=0, description="CPU threads of the learner.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is.")
    batch_timeout_s: float = Field(
        1800.0, gt=0, description="Seconds without a batch after which the run has failed."
    )

    @property
    def student_batch_tokens(self) -> int:
        """`micro_batch_tokens`; where nothing sets them, two groups of the published run."""
        return self.micro_batch_tokens or 9216


class CheckpointSection(Section):
    every_steps: int = Field(0, ge=0, description="Steps between checkpoints; 0: only the last.")
    keep: int = Field(2, gt=0, description="Newest checkpoints kept.")
    keep_best: int = Field(
        0, ge=0, description="Also keep these many with the best full-image accuracy measured."
    )


def _each_rank_has_a_group(config: "RunConfig") -> None:
    if config.learner.ranks > config.learner.groups_per_step:
        raise ValueError(
            f"learner.ranks = {config.learner.ranks}: each needs a group of every step. "
            "Fix: raise learner.groups_per_step, or use fewer ranks"
        )


def _replicas_are_equal(config: "RunConfig") -> None:
    if config.learner.ranks % (config.learner.shard_ranks or 1):
        raise ValueError(
            f"learner.shard_ranks = {config.learner.shard_ranks}: {config.learner.ranks} ranks "
            "cannot be divided into replicas of as many. Fix: a divisor of learner.ranks"
        )


def _machines_have_as_many_ranks(config: "RunConfig") -> None:
    if config.learner.ranks % (config.learner_pool.nodes or 1):
        raise ValueError(
            f"learner.ranks = {config.learner.ranks} cannot be spread evenly over "
            f"learner_pool.nodes = {config.learner_pool.nodes}. Fix: make it a multiple"
        )


def _best_checkpoints_have_accuracies(config: "RunConfig") -> None:
    if config.checkpoint.keep_best and not config.evaluation.every_steps:
        raise ValueError(
            "checkpoint.keep_best needs accuracies. Fix: set evaluation.every_steps, or "
            "checkpoint.keep_best = 0"
        )


CHECKS = (
    _each_rank_has_a_group,
    _replicas_are_equal,
    _machines_have_as_many_ranks,
    _best_checkpoints_have_accuracies,
)
