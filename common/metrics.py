"""Every figure that a run writes, declared once: python -m common.metrics prints the list.

The learner writes a figure under its name into RUN/metrics.jsonl and to the trackers
(`learner.figures`), the launcher into RUN/observations.jsonl. Gauges of heartbeats, charts, health
gates and common/METRICS.md are made from these declarations. `common.figure_rows` reads rows, also
of older runs.

Names are area/name_unit: a figure that has a unit ends with one of the unit's ENDINGS.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from common.config import HealthSection
from common.output import ends_with_its_reader


class Over(StrEnum):
    """What a figure is taken over; it is one number for all ranks."""

    TOKENS = "mean over the step's response tokens"
    TOKENS_GREATEST = "greatest over the step's response tokens"
    TOKENS_QUANTILE = "quantile over the step's response tokens, within 2.2 %"
    TOKENS_OF_AGE = "mean over the step's response tokens of that age; absent without one"
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
class Range:
    """What a figure should lie in, bounds included."""

    why: str  # why there, or the key that sets the bound
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        return " and ".join(
            f"{sign} {bound:g}"
            for sign, bound in ((">=", self.low), ("<=", self.high))
            if math.isfinite(bound)
        )


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
    chart: tuple[str, str] | None = None  # title of one of CHARTS, and the line's name in it
    gate: Gate | None = None  # None means that no gate looks at it
    healthy: Range | None = None  # None means that every finite value is healthy


@dataclass(frozen=True)
class Chart:
    title: str
    unit: str  # of its lines, in words
    note: str = ""


ENDINGS = {  # of names, by unit
    "nats": ("nats",),
    "s": ("s",),
    "share": ("share", "accuracy"),
    "steps": ("steps",),
    "tokens": ("tokens",),
    "tokens/s": ("tokens_per_s",),
    "text": ("sample",),
}
_DRIFT = "Drift of rollout against learner"
_DRIFT_BY_AGE = "Drift by age of a token's weights"
_SMOOTHED = "Rollout servers tell it now and then: a running mean over nine steps."
CHARTS = (  # in the order in which they are shown
    Chart(_DRIFT, "nats a token",
          "|log-prob by the learner's student - log-prob by rollout| of the sampled tokens."),
    Chart(_DRIFT_BY_AGE, "nats a token, mean",
          "By how many steps the learner was ahead of the weights that sampled the token. Age 0 is "
          "numerics alone; what older tokens have above it is training."),
    Chart("Accuracy", "share of held-out answers",
          "By the step whose weights answered, on rollout servers. Points in between are measured "
          "on fewer scenes than the first and the last."),
    Chart("Loss", "nats"),
    Chart("Staleness", "steps"),
    Chart("Student against rollout", "probability ratio of sampled tokens"),
    Chart("Throughput", "response tokens a second", _SMOOTHED),
    Chart("Idle", "share of time", _SMOOTHED),
    Chart("A step's parts", "seconds"),
    Chart("Gradient norm", "before clipping"),
)  # fmt: skip


def _bound(key: str) -> float:
    """The default of a gate's bound: a run's own may be another."""
    value = HealthSection.model_fields[key].default
    assert isinstance(value, float)
    return value


def _bounded(key: str) -> Range:
    return Range(f"health.{key}", high=_bound(key))


LEARNER = (
    Metric("learner/loss_nats", "nats", Over.TOTAL,
           "the objective, weighted and aggregated as configured",
           gauge="loss_nats", chart=("Loss", "weighted divergence")),
    Metric("learner/divergence_nats", "nats", Over.TOKENS, "teacher against student, unweighted",
           gate=Gate("divergence", "teacher-student divergence", "growth", "divergence_growth")),
    Metric("learner/entropy_nats", "nats", Over.TOKENS, "entropy of the student",
           gate=Gate("entropy", "student entropy", "shrink", "entropy_shrink")),
    Metric("learner/response_mean_tokens", "tokens", Over.TRAJECTORIES, "response tokens",
           gate=Gate("length", "response length", "growth", "length_growth")),
    Metric("learner/mismatch_kl_nats", "nats", Over.TOKENS,
           "KL(rollout || student) at the sampled tokens (estimate, >= 0)",
           gate=Gate("mismatch", "KL between rollout and learner", "limit", "mismatch_kl_nats"),
           healthy=_bounded("mismatch_kl_nats")),
    Metric("learner/mismatch_kl_worst_nats", "nats", Over.SAMPLES,
           "mismatch_kl_nats of the sample where it is largest"),
    Metric("learner/mismatch_worst_sample", "text", Over.SAMPLES,
           "that sample's sample_id: was it shown another picture or prompt?"),
    Metric("learner/mismatch_kl_outlier_nats", "nats", Over.SAMPLES,
           "mismatch_kl_worst_nats if it is over 50 times the mean of the other samples, else 0",
           gate=Gate("sample", "KL between rollout and learner of a sample", "limit",
                     "sample_mismatch_kl_nats", is_of_one_sample=True),
           healthy=_bounded("sample_mismatch_kl_nats")),
    Metric("learner/ratio_max", "", Over.TOKENS_GREATEST, "as ratio_mean",
           chart=("Student against rollout", "highest")),
    Metric("learner/ratio_mean", "", Over.TOKENS, "p_student / p_rollout, before truncation",
           chart=("Student against rollout", "mean"),
           healthy=Range("its expectation is 1 where rollout reports the law that it samples by",
                         0.9, 1.1)),
    Metric("learner/ratio_clipped_share", "share", Over.TOKENS,
           "tokens whose importance weight was truncated",
           healthy=Range("beyond it truncation, and not the data, decides what is learnt",
                         high=0.05)),
    Metric("learner/teacher_gain_nats", "nats", Over.TOKENS,
           "teacher's minus student's log-prob of the sampled token; the student's is normalised "
           "without the tokens that rollout may not sample, the teacher's over all"),
    Metric("learner/grad_norm", "", Over.STEP, "before clipping; null where it was not finite",
           gauge="grad_norm", chart=("Gradient norm", "gradient norm")),
    Metric("learner/skipped_steps", "steps", Over.STEP,
           "so far, because of a gradient norm that was not finite",
           healthy=Range("each is a batch that taught nothing", high=0)),
    Metric("learner/lr", "", Over.STEP, "with roll_back_lr_factor for each roll-back", gauge="lr"),
    Metric("learner/groups", "", Over.TOTAL, "groups trained on"),
    Metric("learner/trajectories", "", Over.TOTAL, "trajectories trained on"),
    Metric("learner/tokens", "tokens", Over.TOTAL, "response tokens trained on"),
    Metric("learner/refused_groups", "", Over.TOTAL, "groups turned down",
           healthy=Range("each is named in RUN/quarantine.jsonl, with the reason", high=0)),
    Metric("learner/step_s", "s", Over.RANK_0, "without the wait for its batch and pauses"),
    Metric("learner/idle_share", "share", Over.RANK_0, "wait_batch_s / (wait_batch_s + step_s)",
           gauge="idle_share", chart=("Idle", "learner"),
           healthy=Range("beyond it rollout is what limits the run: deploy.explain", high=0.2)),
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
           "what the gates asked for: 0 nothing, 1 warn, 2 pause, 3 roll back, 4 stop",
           healthy=Range("a gate acted: see the learner's log", high=0)),
)  # fmt: skip
DRIFT = (  # |student's - rollout's| log-prob of a sampled token (`learner.figures.drift`)
    Metric("drift/mean_nats", "nats", Over.TOKENS,
           "|student's - rollout's| log-prob of the sampled token",
           gauge="drift_mean_nats", chart=(_DRIFT, "mean"),
           healthy=Range("with it, mismatch_kl_nats reaches its bound where tokens drift alike: "
                         "KL is about drift^2 / 2", high=0.4)),
    Metric("drift/p50_nats", "nats", Over.TOKENS_QUANTILE, "the same", chart=(_DRIFT, "median")),
    Metric("drift/p90_nats", "nats", Over.TOKENS_QUANTILE, "the same", chart=(_DRIFT, "p90")),
    Metric("drift/p99_nats", "nats", Over.TOKENS_QUANTILE, "the same", chart=(_DRIFT, "p99")),
    Metric("drift/max_nats", "nats", Over.TOKENS_GREATEST, "the same"),
    Metric("drift/age_0_mean_nats", "nats", Over.TOKENS_OF_AGE,
           "the same, of tokens that were sampled by the weights that the step began with",
           chart=(_DRIFT_BY_AGE, "age 0"),
           healthy=Range("the same weights: what is left is rounding, in bfloat16 some hundredths",
                         high=0.06)),
    Metric("drift/age_1_mean_nats", "nats", Over.TOKENS_OF_AGE, "by weights a step older",
           chart=(_DRIFT_BY_AGE, "age 1")),
    Metric("drift/age_2_mean_nats", "nats", Over.TOKENS_OF_AGE, "two steps older",
           chart=(_DRIFT_BY_AGE, "age 2")),
    Metric("drift/age_3_mean_nats", "nats", Over.TOKENS_OF_AGE, "three steps older",
           chart=(_DRIFT_BY_AGE, "age 3")),
    Metric("drift/age_4_up_mean_nats", "nats", Over.TOKENS_OF_AGE, "four steps older, or more",
           chart=(_DRIFT_BY_AGE, "age 4 and more")),
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
_CUT = Range("beyond it the limit, and not the model, decides what is right", high=0.05)
EVALUATION = (
    Metric("evaluation/version", "", Over.HELDOUT, "step of the weights that answered",
           gauge="accuracy_version"),
    Metric("evaluation/full_accuracy", "share", Over.HELDOUT, "right answers to full images",
           gauge="full_accuracy", chart=("Accuracy", "full image"),
           gate=Gate("accuracy", "full-image accuracy", "drop", "accuracy_drop")),
    Metric("evaluation/crop_accuracy", "share", Over.HELDOUT, "right answers to evidence crops",
           gauge="crop_accuracy", chart=("Accuracy", "evidence crop")),
    Metric("evaluation/full_cut_share", "share", Over.HELDOUT,
           "answers cut at evaluation.max_response_tokens; they are judged as they are",
           healthy=_CUT),
    Metric("evaluation/crop_cut_share", "share", Over.HELDOUT, "the same of crops", healthy=_CUT),
    Metric("evaluation/samples", "", Over.HELDOUT, "how many samples were asked about"),
    Metric("evaluation/stall_s", "s", Over.HELDOUT, "that the learner waited or worked for it"),
    Metric("evaluation/duration_s", "s", Over.HELDOUT, "from its order to the last answer"),
)  # fmt: skip
OBSERVED = (
    Metric("broker/slots_used", "", Over.LOOKS, "slots of the broker that are in use"),
    Metric("broker/groups_ready", "", Over.LOOKS, "groups that wait for the learner"),
    Metric("rollout/idle_share", "share", Over.SERVERS, "time without a group",
           chart=("Idle", "rollout servers")),
    Metric("rollout/tokens_per_s", "tokens/s", Over.SERVERS_TOTAL, "tokens generated",
           chart=("Throughput", "generated")),
    Metric("rollout/groups_in_flight", "", Over.SERVERS_TOTAL, "groups under way"),
)  # fmt: skip
_DECLARED = (*DRIFT, *LEARNER, *PARTS, *EVALUATION, *OBSERVED)
GATED = {metric: metric.gate for metric in _DECLARED if metric.gate is not None}


def ratio_name(gate: Gate) -> str:
    """The name of a gate's figure over what it is compared with: its baseline, best or bound."""
    return f"health/{gate.name}_ratio"


def _healthy_ratio(gate: Gate) -> Range | None:
    """The bound on a gate's ratio; None where the bound is a difference."""
    why = f"health.{gate.bound_key}"
    match gate.kind:
        case "growth":
            return _bounded(gate.bound_key)
        case "shrink":
            return Range(why, low=_bound(gate.bound_key))
        case "limit":
            return Range(why, high=1)
        case "drop":
            return None


_RATIOS = (
    Metric(ratio_name(gate), "", Over.STEP, f"{metric.name} over what it is compared with",
           healthy=_healthy_ratio(gate))
    for metric, gate in GATED.items()
)  # fmt: skip
METRICS = {metric.name: metric for metric in (*_DECLARED, *_RATIOS)}


def names_over(over: Over) -> tuple[str, ...]:
    """The names of the metrics that are taken over one thing, in their order."""
    return tuple(metric.name for metric in METRICS.values() if metric.over is over)


def lines_of(chart: Chart) -> tuple[Metric, ...]:
    """The metrics that are a chart's lines, in their order."""
    return tuple(m for m in METRICS.values() if m.chart is not None and m.chart[0] == chart.title)


def is_healthy(name: str, value: float | None) -> bool:
    """Whether a figure lies in its healthy range. None, as rows have it, was not finite.

    Raises KeyError for what is no figure.
    """
    if value is None or not math.isfinite(value):
        return False
    healthy = METRICS[name].healthy
    return healthy is None or healthy.low <= value <= healthy.high


def table() -> str:
    """All metrics as a Markdown table."""
    rows = [("name", "unit", "taken over", "healthy", "gate", "meaning"), ("---",) * 6]
    for metric in METRICS.values():
        gate = f"{metric.gate.kind}: health.{metric.gate.bound_key}" if metric.gate else ""
        healthy = f"{metric.healthy} ({metric.healthy.why})" if metric.healthy else ""
        meaning = metric.meaning.replace("|", r"\|")
        rows.append((metric.name, metric.unit, metric.over, healthy, gate, meaning))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def document() -> str:
    """The text of common/METRICS.md."""
    return (
        "# The figures of a run\n\n"
        "`python -m common.metrics > common/METRICS.md` makes this file of the declarations in "
        "[metrics.py](metrics.py).\n"
        "A bound named `health.KEY` is that key's default: the gate acts at the run's own.\n\n"
        f"{table()}\n"
    )


if __name__ == "__main__":
    with ends_with_its_reader():
        print(document(), end="")
