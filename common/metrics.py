"""Every figure that a run writes, declared once: python -m common.metrics prints the list.

A figure is written under its name into RUN/metrics.jsonl, RUN/observations.jsonl and TensorBoard.
Gauges of heartbeats, the report's charts and the health gates are made from these declarations.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from common.output import ends_with_its_reader


class Over(StrEnum):
    """What a figure is taken over; it is one number for all ranks."""

    TOKENS = "mean over the step's response tokens"
    TOKENS_GREATEST = "greatest over the step's response tokens"
    TRAJECTORIES = "mean over the step's trajectories"
    TRAJECTORIES_GREATEST = "greatest over the step's trajectories"
    TOTAL = "sum over the ranks"
    SAMPLES = "of one of the step's samples"
    STEP = "of the step, the same on every rank"
    RANK_0 = "of the step, as rank 0 has it"
    HELDOUT = "of one measurement on held-out samples"
    SERVERS = "mean over the rollout servers and over the looks at one version"
    SERVERS_TOTAL = "sum over the rollout servers, mean over the looks at one version"
    LOOKS = "mean over the looks at one version"


@dataclass(frozen=True)
class Gate:
    """A bound on a figure; beyond it the section [health] says what happens (`learner.health`)."""

    name: str
    label: str  # the figure, in a sentence
    kind: Literal["growth", "shrink", "drop", "limit"]
    bound_key: str  # the bound's key in [health]
    is_of_one_sample: bool = False


@dataclass(frozen=True)
class Metric:
    """A figure of a row."""

    name: str  # area/name_unit
    unit: str  # "share" is a part of 1; empty where the figure is a count or has no unit
    over: Over
    meaning: str
    gauge: str = ""  # its name in the learner's heartbeats, which the live view shows; empty: none
    chart: tuple[str, str] | None = None  # the report's chart, and the line's name in it
    gate: Gate | None = None  # None means that every value is healthy


LEARNER = (
    Metric("learner/loss_nats", "nats", Over.TOTAL,
           "the objective, weighted and aggregated as configured",
           gauge="loss_nats", chart=("Loss", "weighted divergence")),
    Metric("learner/divergence_nats", "nats", Over.TOKENS, "teacher against student, unweighted",
           gate=Gate("divergence", "teacher-student divergence", "growth", "divergence_growth")),
    Metric("learner/entropy_nats", "nats", Over.TOKENS, "entropy of the student",
           gate=Gate("entropy", "student entropy", "shrink", "entropy_shrink")),
    Metric("learner/response_tokens_mean", "tokens", Over.TRAJECTORIES, "response tokens",
           gate=Gate("length", "response length", "growth", "length_growth")),
    Metric("learner/mismatch_kl_nats", "nats", Over.TOKENS,
           "KL(rollout || student) at the sampled tokens (estimate, >= 0)",
           gate=Gate("mismatch", "KL between rollout and learner", "limit", "mismatch_kl_nats")),
    Metric("learner/mismatch_kl_worst_nats", "nats", Over.SAMPLES,
           "mismatch_kl_nats of the sample where it is largest"),
    Metric("learner/mismatch_worst_sample", "text", Over.SAMPLES,
           "that sample's sample_id: was it shown another picture or prompt?"),
    Metric("learner/mismatch_kl_outlier_nats", "nats", Over.SAMPLES,
           "mismatch_kl_worst_nats if it is over 50 times the mean of the other samples, else 0",
           gate=Gate("sample", "KL between rollout and learner of a sample", "limit",
                     "sample_mismatch_kl_nats", is_of_one_sample=True)),
    Metric("learner/logprob_difference_mean_nats", "nats", Over.TOKENS,
           "|student's - rollout's| log-prob of the sampled token"),
    Metric("learner/logprob_difference_max_nats", "nats", Over.TOKENS_GREATEST, "the same"),
    Metric("learner/ratio_max", "", Over.TOKENS_GREATEST, "as ratio_mean",
           chart=("Student against rollout", "highest")),
    Metric("learner/ratio_mean", "", Over.TOKENS, "p_student / p_rollout, before truncation",
           chart=("Student against rollout", "mean")),
    Metric("learner/ratio_clipped_share", "share", Over.TOKENS,
           "tokens whose importance weight was truncated"),
    Metric("learner/teacher_gain_nats", "nats", Over.TOKENS,
           "teacher's minus student's log-prob of the sampled token; the student's is normalised "
           "without the tokens that rollout may not sample, the teacher's over all"),
    Metric("learner/grad_norm", "", Over.STEP, "before clipping; null where it was not finite",
           gauge="grad_norm", chart=("Gradient norm", "gradient norm")),
    Metric("learner/skipped_steps", "steps", Over.STEP,
           "so far, because of a gradient norm that was not finite"),
    Metric("learner/lr", "", Over.STEP, "with roll_back_lr_factor for each roll-back", gauge="lr"),
    Metric("learner/groups", "", Over.TOTAL, "groups trained on"),
    Metric("learner/trajectories", "", Over.TOTAL, "trajectories trained on"),
    Metric("learner/tokens", "tokens", Over.TOTAL, "response tokens trained on"),
    Metric("learner/refused_groups", "", Over.TOTAL, "groups turned down"),
    Metric("learner/step_s", "s", Over.RANK_0, "without the wait for its batch and pauses"),
    Metric("learner/idle_share", "share", Over.RANK_0, "wait_batch_s / (wait_batch_s + step_s)",
           gauge="idle_share", chart=("Idle", "learner")),
    Metric("learner/tokens_per_s", "tokens/s", Over.RANK_0,
           "response tokens of all ranks over wait_batch_s + step_s",
           gauge="tokens_per_s", chart=("Throughput", "trained")),
    Metric("staleness/max_steps", "steps", Over.TRAJECTORIES_GREATEST, "age of the oldest weights",
           gauge="staleness_max", chart=("Staleness", "highest")),
    Metric("staleness/mean_steps", "steps", Over.TRAJECTORIES, "the same",
           chart=("Staleness", "mean")),
    Metric("sync/publish_s", "s", Over.RANK_0, "of the last completed weight push"),
    Metric("sync/stall_s", "s", Over.RANK_0, "that pushes kept the learner waiting"),
    Metric("checkpoint/stall_s", "s", Over.RANK_0,
           "that saving kept the step waiting before it began (not in step_s); only with "
           "checkpoint.every_steps"),
    Metric("health/action", "", Over.STEP,
           "what the gates asked for: 0 nothing, 1 warn, 2 pause, 3 roll back, 4 stop"),
)  # fmt: skip
PARTS = (  # of a step's seconds: they do not overlap, and are at most step_s together
    Metric("time/student_forward_s", "s", Over.RANK_0, "the student's forward pass, without vision",
           chart=("A step's parts", "student forward")),
    Metric("time/vision_s", "s", Over.RANK_0, "the student's vision tower, forward"),
    Metric("time/teacher_forward_s", "s", Over.RANK_0,
           "all of the teacher, contrast pictures and token weights included",
           chart=("A step's parts", "teacher forward")),
    Metric("time/objective_s", "s", Over.RANK_0, "objective and the logits' gradient",
           chart=("A step's parts", "objective")),
    Metric("time/backward_s", "s", Over.RANK_0, "of the model, vision tower included",
           chart=("A step's parts", "backward")),
    Metric("time/optimizer_s", "s", Over.RANK_0, "clipping and optimizer",
           chart=("A step's parts", "optimizer")),
    Metric("time/teacher_update_s", "s", Over.RANK_0, "the teacher moves"),
    Metric("learner/wait_batch_s", "s", Over.RANK_0, "waited for this batch; not in step_s",
           gauge="wait_batch_s", chart=("A step's parts", "waiting")),
)  # fmt: skip
EVALUATION = (
    Metric("evaluation/version", "", Over.HELDOUT, "step of the weights that answered",
           gauge="accuracy_version"),
    Metric("evaluation/full_accuracy", "share", Over.HELDOUT, "right answers to full images",
           gauge="full_accuracy", chart=("Accuracy", "full image"),
           gate=Gate("accuracy", "full-image accuracy", "drop", "accuracy_drop")),
    Metric("evaluation/crop_accuracy", "share", Over.HELDOUT, "right answers to evidence crops",
           gauge="crop_accuracy", chart=("Accuracy", "evidence crop")),
    Metric("evaluation/full_cut_share", "share", Over.HELDOUT,
           "answers cut at evaluation.max_response_tokens; they are judged as they are"),
    Metric("evaluation/crop_cut_share", "share", Over.HELDOUT, "the same of crops"),
    Metric("evaluation/samples", "", Over.HELDOUT, "how many samples were asked about"),
    Metric("evaluation/seconds", "s", Over.HELDOUT, "that the learner waited or worked for it"),
    Metric("evaluation/duration_s", "s", Over.HELDOUT, "from its order to the last answer"),
)  # fmt: skip
OBSERVED = (
    Metric("slots_used", "", Over.LOOKS, "slots of the broker that are in use"),
    Metric("rollout/idle_share", "share", Over.SERVERS, "time without a group",
           chart=("Idle", "rollout servers")),
    Metric("rollout/tokens_per_s", "tokens/s", Over.SERVERS_TOTAL, "tokens generated",
           chart=("Throughput", "generated")),
    Metric("rollout/groups_in_flight", "", Over.SERVERS_TOTAL, "groups under way"),
)  # fmt: skip
_DECLARED = (*LEARNER, *PARTS, *EVALUATION, *OBSERVED)
GATED = {metric: metric.gate for metric in _DECLARED if metric.gate is not None}


def ratio_name(gate: Gate) -> str:
    """The name of a gate's figure over what it is compared with: its baseline, best or bound."""
    return f"health/{gate.name}_ratio"


_RATIOS = (
    Metric(ratio_name(gate), "", Over.STEP, f"{metric.name} over what it is compared with")
    for metric, gate in GATED.items()
)
METRICS = {metric.name: metric for metric in (*_DECLARED, *_RATIOS)}


def names_over(over: Over) -> tuple[str, ...]:
    """The names of the metrics that are taken over one thing, in their order."""
    return tuple(metric.name for metric in METRICS.values() if metric.over is over)


def table() -> str:
    """All metrics as a Markdown table."""
    rows = [("name", "unit", "taken over", "gate", "meaning"), ("---",) * 5]
    for metric in METRICS.values():
        gate = f"health.{metric.gate.bound_key}" if metric.gate else ""
        meaning = metric.meaning.replace("|", r"\|")
        rows.append((metric.name, metric.unit, metric.over, gate, meaning))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    with ends_with_its_reader():
        print(table())
