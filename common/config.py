"""The one typed configuration tree. Its defaults are the published Vision-OPD run.

Frozen pydantic models, built once in each process's `main` and passed down by section. Reading
files and command lines is `common.config_cli`'s job.
"""

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from common.cluster_config import ClusterSection, PoolSection
from common.section import Section


class RunSection(Section):
    name: str = Field("vision-opd", description="Name of the run; part of its folder's name.")
    folder: Path | None = Field(
        None, description="Run folder. Default: runs/<name>-<date>-<time> beside the code."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of data order, sampling and views.")
    resume: bool = Field(
        False, description="Go on with the run in run.folder, from its newest checkpoint."
    )


class ModelSection(Section):
    path: str = Field("Qwen/Qwen3.5-4B", description="Hugging Face folder or name of the start.")
    revision: str | None = Field(
        None,
        min_length=1,
        description="Commit, branch or tag of a name on the hub; none: its main.",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Compute dtype of student and teacher; masters are float32."
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="Attention kernel of the vision tower; auto: flash-attn if installed."
    )
    share_prefix: bool = Field(
        True, description="Compute a group's image and question once for all its responses."
    )
    gradient_checkpointing: bool | float = Field(
        True,
        ge=0,
        le=1,
        description="Recompute activations in the backward pass, which saves memory; a number: in "
        "that share of the layers.",
    )
    freeze_vision_tower: bool = Field(False, description="Do not train the vision tower.")
    lora_rank: int = Field(
        0, ge=0, description="Rank of low-rank adapters of the language model; 0 trains all of it."
    )
    lora_alpha: float = Field(32.0, gt=0, description="Adapters are scaled by alpha / rank.")
    max_prompt_tokens: int = Field(8192, gt=0, description="Tokens; longer prompts are refused.")

    def num_recomputed(self, layers: int) -> int:
        """Of so many first layers of a stack: the share, rounded down."""
        return math.floor(layers * float(self.gradient_checkpointing) + 1e-9)

    def recomputes(self, layer: int) -> bool:
        """Whether a layer, counted from 0, is computed anew in the backward pass."""
        return self.num_recomputed(layer + 1) > self.num_recomputed(layer)


class PromptSection(Section):
    """How a question becomes a prompt, for rollout, student, teacher, serving and export alike."""

    thinking: bool = Field(
        False,
        description="Let the model think before it answers. As published it does not; a template "
        "that opens a think block all the same is refused.",
    )
    chat_template: Path | None = Field(
        None, description="Jinja file in place of the checkpoint's own chat template."
    )


class DataSection(Section):
    train: Path | None = Field(
        None, description="Parquet file of samples; paths inside it are relative to its folder."
    )
    heldout: Path | None = Field(None, description="Parquet file used only to measure accuracy.")
    epochs: int = Field(1, gt=0, description="Passes over the training samples.")
    shuffle: bool = Field(True, description="Shuffle each epoch, seeded by run.seed.")
    max_picture_megapixels: float = Field(
        64.0,
        gt=0,
        le=178,
        description="Millions of pixels; a row with a larger picture is left out.",
    )
    max_refused_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the rows of train that may be refused at reading or quarantined, "
        "together; more end the run (one row always may, unless it is 0). 1: any number.",
    )


class BrokerSection(Section):
    address: str = Field(
        "tcp://127.0.0.1:5570", description="Where the broker listens; port 0 takes a free one."
    )
    keys: Path | None = Field(
        None,
        description="Folder of CURVE keys (python -m broker.keys FOLDER); needed off loopback.",
    )
    public_host: str | None = Field(
        None,
        min_length=1,
        description="Host by which others reach the broker; none: the one it listens on, or this "
        "machine's primary address if it listens on 0.0.0.0.",
    )
    max_staleness: int = Field(
        0,
        ge=0,
        le=64,
        description="Steps by which a trajectory may lag the learner; 0 is synchronous.",
    )
    lease_s: float = Field(300.0, gt=0, description="Seconds until an unsubmitted lease lapses.")
    max_leases: int = Field(256, gt=0, description="Groups that one rollout server may hold.")
    member_timeout_s: float = Field(
        20.0, gt=0, description="Seconds of silence after which a process counts as gone."
    )
    max_attempts: int = Field(
        3,
        gt=0,
        description="Failed attempts at one sample before it is quarantined. Of an engine's death "
        "the last one counts for a sample only if nothing else was under way.",
    )
    max_frame_mib: int = Field(64, gt=0, le=1024, description="MiB; larger messages are refused.")
    max_held_mib: int = Field(
        4096,
        gt=0,
        description="MiB of trajectories that a broker without a run folder keeps in memory.",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        "interval",
        description="When the journal must reach the disk: always: before each answer; interval: "
        "every fsync_interval_s; never: when the system likes. All survive a killed broker.",
    )
    fsync_interval_s: float = Field(1.0, gt=0, description="Seconds between fsyncs (interval).")


class RolloutSection(Section):
    engine: Literal["sglang", "embedded"] = Field(
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
    """How SGLang is started. Of a server that runs already (engine_urls) only the key is used."""

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


class ObjectiveSection(Section):
    divergence: Literal["jsd", "forward_kl", "reverse_kl", "sampled_reverse_kl"] = Field(
        "jsd",
        description="forward_kl = KL(teacher|student), reverse_kl = KL(student|teacher); "
        "sampled_reverse_kl estimates the latter at the sampled token alone.",
    )
    jsd_teacher_weight: float = Field(
        0.5, gt=0, lt=1, description="Teacher's share in the mixture (the paper's beta)."
    )
    top_k: int | None = Field(
        100, gt=0, description="Student's likeliest tokens that are compared; none: all tokens."
    )
    tail: bool = Field(True, description="A bucket for all other tokens; false: renormalise.")
    importance_clip: float | None = Field(
        2.0, gt=0, description="Upper truncation of student/rollout ratios; none: no weights."
    )
    aggregation: Literal["sequence_mean", "token_mean", "micro_batch_mean"] = Field(
        "sequence_mean",
        description="Mean over sequences of token means, or over all tokens; micro_batch_mean as "
        "published: it depends on how sequences were packed.",
    )
    token_weights: Literal["none", "visual_advantage"] = Field(
        "none",
        description="visual_advantage: more weight where the teacher's picture matters (VA-OPD).",
    )
    visual_advantage_share: float = Field(
        0.2, gt=0, lt=1, description="Share of a response's tokens that count as visual."
    )
    visual_advantage_mass: float = Field(
        0.5, gt=0, lt=1, description="Share of a response's weight that those tokens get."
    )
    visual_advantage_pixels: int = Field(
        16,
        gt=1,
        description="Side of a block when the teacher's picture is pixelated for contrast.",
    )


class StudentSection(Section):
    """What the student is shown, in training and by the rollout servers alike (common.views)."""

    view: str = Field(
        "full",
        description="full; red_box: with a red line round the evidence; degraded: made worse at "
        "random, for a teacher that sees it as it is (S2VOPD: needs no box).",
    )
    hint: str = Field(
        "",
        description="Text after every question in training, for the teacher too. (The published "
        "set has its sentence about the red box in the questions.)",
    )
    red_box_pixels: int = Field(4, gt=0, le=100, description="Width of the red line (red_box).")
    degradations: tuple[str, ...] = Field(
        ("shrink", "blur", "noise", "jpeg", "erase"),
        min_length=1,
        description="One of these is drawn for each group (degraded).",
    )
    degradation_strength: float = Field(
        0.5, gt=0, le=1, description="How much of the picture is lost, at most (degraded)."
    )

    @field_validator("view")
    @classmethod
    def _view_is_known(cls, name: str) -> str:
        return _known_view(name, "student")

    @field_validator("degradations")
    @classmethod
    def _degradations_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from common.views.degradations import DEGRADATIONS

        for name in names:
            if name not in DEGRADATIONS:
                known = ", ".join(DEGRADATIONS)
                raise ValueError(f"there is no degradation {name!r}. Fix: choose of {known}")
        return names


class TeacherSection(Section):
    policy: Literal["ema", "frozen", "current", "progressive", "trust_region", "fixed"] = Field(
        "ema",
        description="Weights of the teacher: moving average, start, the student itself (which "
        "collapses), a copy taken every interval_steps, the start's logits mixed with the "
        "student's, or the model of teacher.path.",
    )
    path: str | None = Field(
        None, description="Hugging Face folder or name of the model of policy = fixed."
    )
    revision: str | None = Field(
        None, min_length=1, description="Of teacher.path, as model.revision is of model.path."
    )
    interval_steps: int = Field(10, gt=0, description="Steps between copies (progressive).")
    student_share: float = Field(
        0.05, ge=0, le=1, description="Student's share in the teacher's logits (trust_region)."
    )
    offload: bool = Field(
        False, description="Keep the float32 average in main memory, not on the GPU."
    )
    ema_rate: float = Field(
        0.05, ge=0, le=1, description="teacher = (1 - rate) * teacher + rate * student, a step."
    )
    view: str = Field(
        "crop",
        description="What the teacher is shown (common.views): crop; full and random_crop, which "
        "are controls; answer_hint: the full image with the reference answer in the text (OPSD; "
        "needs answers); box_text: the full image with the evidence's place in words (Where-OPD).",
    )
    answer_hint: str = Field(
        "\n\nHere is a reference answer:\n{answer}\n\n"
        "After understanding it, answer in your own way.",
        description="Text after the question (view = answer_hint); {answer} is filled in.",
    )
    box_text: str = Field(
        "\n\nThe part of the picture to look at is the box [{x1}, {y1}, {x2}, {y2}].",
        description="Text after the question (view = box_text); {x1}, {y1}, {x2} and {y2} are "
        "filled in, in thousandths of the picture's sides.",
    )
    crop_margin: float = Field(
        0.0, ge=0, description="Context kept round the box on each side, in box widths/heights."
    )
    crop_scale: float = Field(
        2.0, gt=0, description="Enlargement of a crop cut from the box (ready crops have it)."
    )

    @field_validator("view")
    @classmethod
    def _view_is_known(cls, name: str) -> str:
        return _known_view(name, "teacher")


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


class CheckpointSection(Section):
    every_steps: int = Field(0, ge=0, description="Steps between checkpoints; 0: only the last.")
    keep: int = Field(2, gt=0, description="Newest checkpoints kept.")
    keep_best: int = Field(
        0, ge=0, description="Also keep these many with the best full-image accuracy measured."
    )


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


def _known_view(name: str, role: Literal["student", "teacher"]) -> str:
    from common.errors import ConfigError
    from common.views.registry import view_named  # it imports Pillow, which not all need

    try:
        view_named(name, role)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


class RunConfig(Section):
    """Everything that one run is made of."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    prompt: PromptSection = PromptSection()
    data: DataSection = DataSection()
    broker: BrokerSection = BrokerSection()
    rollout: RolloutSection = RolloutSection()
    sglang: SglangSection = SglangSection()
    objective: ObjectiveSection = ObjectiveSection()
    student: StudentSection = StudentSection()
    teacher: TeacherSection = TeacherSection()
    optimizer: OptimizerSection = OptimizerSection()
    learner: LearnerSection = LearnerSection()
    weights: WeightsSection = WeightsSection()
    checkpoint: CheckpointSection = CheckpointSection()
    health: HealthSection = HealthSection()
    evaluation: EvaluationSection = EvaluationSection()
    cluster: ClusterSection = ClusterSection()
    broker_pool: PoolSection = PoolSection()
    rollout_pool: PoolSection = PoolSection()
    learner_pool: PoolSection = PoolSection()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if self.evaluation.every_steps and self.data.heldout is None:
            raise ValueError(
                "evaluation.every_steps is set but data.heldout is not. "
                "Fix: name a held-out Parquet file, or set evaluation.every_steps = 0"
            )
        if self.learner.ranks > self.learner.groups_per_step:
            raise ValueError(
                f"learner.ranks = {self.learner.ranks}: each needs a group of every step. "
                "Fix: raise learner.groups_per_step, or use fewer ranks"
            )
        if self.learner.ranks % (self.learner.shard_ranks or 1):
            raise ValueError(
                f"learner.shard_ranks = {self.learner.shard_ranks}: {self.learner.ranks} ranks "
                "cannot be divided into replicas of as many. Fix: a divisor of learner.ranks"
            )
        if self.learner.ranks % (self.learner_pool.nodes or 1):
            raise ValueError(
                f"learner.ranks = {self.learner.ranks} cannot be spread evenly over "
                f"learner_pool.nodes = {self.learner_pool.nodes}. Fix: make it a multiple"
            )
        if self.broker_pool.gpus:
            raise ValueError("broker_pool.gpus: the broker uses none. Fix: leave it at 0")
        server_gpus = self.sglang.tensor_parallel
        if self.rollout_pool.gpus > 1 and self.rollout_pool.gpus != server_gpus:
            raise ValueError(
                f"rollout_pool.gpus = {self.rollout_pool.gpus:g}, but a server is split over "
                f"sglang.tensor_parallel = {server_gpus} GPUs. Fix: make them equal"
            )
        if self.teacher.policy == "fixed" and self.teacher.path is None:
            raise ValueError(
                "teacher.policy = fixed needs teacher.path. Fix: name a Hugging Face folder, or "
                "set teacher.policy = ema"
            )
        if "{answer}" not in self.teacher.answer_hint:
            raise ValueError(
                "teacher.answer_hint lacks {answer}. Fix: put it where the answer belongs"
            )
        if self.checkpoint.keep_best and not self.evaluation.every_steps:
            raise ValueError(
                "checkpoint.keep_best needs accuracies. Fix: set evaluation.every_steps, or "
                "checkpoint.keep_best = 0"
            )
        kept_steps = self.checkpoint.every_steps * (self.checkpoint.keep - 1)
        if self.health.action == "roll_back" and kept_steps <= self.health.patience:
            raise ValueError(
                "health.action = roll_back needs a checkpoint from before it went wrong: of "
                f"{self.health.patience} steps (health.patience) and more ago. "
                "Fix: set checkpoint.every_steps, or raise checkpoint.keep"
            )
        truncates = self.rollout.top_p < 1 or self.rollout.top_k > 0
        if truncates and self.objective.importance_clip is not None:
            raise ValueError(
                "rollout.top_p / rollout.top_k truncate the sampling law, which makes "
                "importance weights wrong. Fix: top_p = 1 and top_k = -1, or "
                'objective.importance_clip = "none"'
            )
        if self.rollout.deterministic and self.rollout.engine != "embedded":
            raise ValueError(
                'rollout.deterministic needs rollout.engine = "embedded" for now. '
                "Fix: set rollout.deterministic = false"
            )
        if self.weights.pause_mode == "in_place" and self.broker.max_staleness == 0:
            raise ValueError(
                "weights.pause_mode = in_place lets responses go on from KV of older weights, "
                "which broker.max_staleness = 0 forbids. Fix: weights.pause_mode = retract, or "
                "broker.max_staleness = 1"
            )
        if self.teacher.view == self.student.view and self.teacher.policy == "current":
            raise ValueError(
                f"teacher.policy = current with teacher.view = {self.teacher.view} compares the "
                "student with itself. Fix: choose another policy or view"
            )
        if self.weights.backend == "nccl" and self.learner.device == "cpu":
            raise ValueError(
                "weights.backend = nccl needs a GPU but learner.device = cpu. "
                "Fix: weights.backend = gloo"
            )
        return self
