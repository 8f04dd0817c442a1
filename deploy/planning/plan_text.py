"""A plan as a page of text, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.config import RunConfig
from deploy.planning.layout import Layout, Machines
from deploy.planning.prediction import Plan, Prediction, total_s, with_more_staleness
from deploy.planning.rates import STEP_PARTS, Rates, to_json
from deploy.planning.shape import ModelShape
from deploy.planning.tables import duration, gib, million, percent, seconds, table
from deploy.planning.workload import Workload

FORMAT = 1
_MOST_SPLITS = 12  # lines of the table of splits
_NAMES = {
    "group_alone_s": "generation",
    **{part.rate: part.name for part in STEP_PARTS},
    "other_s": "other",
    "prepare_s": "preparing a batch",
    "push_s": "weight push",
    "evaluation_sample_s": "evaluation",
    "checkpoint_s": "checkpoint",
    "startup_s": "start-up",
}
_LEARNER = (*(part.rate for part in STEP_PARTS), "other_s")


@dataclass(frozen=True)
class Question:
    """What was asked."""

    config: RunConfig
    arguments: tuple[str, ...]  # words of the command line
    shape: ModelShape
    work: Workload
    machines: Machines
    steps: int  # number of steps of the whole run


def page(question: Question, plan: Plan) -> str:
    shown = plan.best or plan.predictions[0]
    lines = ["What this rests on", *_assumptions(question, shown.rates), ""]
    where = _where(shown.layout)
    lines += [f"A learner's step, without waiting ({where})", *_step(shown.rates), ""]
    lines += ["Splits", *_splits(question, plan), ""]
    lines += ["Recommended", *_recommendation(question, plan)]
    return "\n".join(lines) + "\n"


def to_plan_json(question: Question, plan: Plan) -> dict[str, Any]:
    best = plan.best
    return {
        "format": FORMAT,
        "recommended": None if best is None else _prediction_json(question, best),
        "predictions": [_prediction_json(question, p) for p in plan.predictions],
        "rates": to_json((best or plan.predictions[0]).rates),
    }


def _prediction_json(question: Question, prediction: Prediction) -> dict[str, Any]:
    return {
        **asdict(prediction.layout),
        "max_staleness": prediction.max_staleness,
        **asdict(prediction.outcome),
        "fits": prediction.fits,
        "learner_gib": round(prediction.learner_memory.total / 2**30, 2),
        "server_gib": round(prediction.server_memory.total / 2**30, 2),
        "push_s": prediction.rates.push_s.value,
        "total_s": total_s(prediction, question.config, question.steps),
        "flags": launch_flags(question, prediction),
    }


def launch_flags(question: Question, prediction: Prediction) -> list[str]:
    """What to add to the arguments of the launcher."""
    layout, config = prediction.layout, question.config
    changes: dict[str, tuple[object, object]] = {
        "rollout.servers": (layout.servers, config.rollout.servers),
        "learner.ranks": (layout.ranks, config.learner.ranks),
        "broker.max_staleness": (prediction.max_staleness, config.broker.max_staleness),
        "rollout.max_concurrent_groups": (
            prediction.capacity,
            config.rollout.max_concurrent_groups,
        ),
    }
    if question.machines.has_gpus:
        nodes = layout.learner_nodes if layout.learner_nodes > 1 else None
        changes["learner_pool.nodes"] = (nodes, config.learner_pool.nodes)
        server, learner = float(layout.server_gpus), 1.0
        if layout.is_shared:
            server, learner = server / 2, 0.5
            room = prediction.server_memory.room / question.machines.rollout_device.memory
            if config.sglang.max_total_tokens is None:  # else its cache is of a fixed size
                changes["sglang.memory_fraction"] = (round(room, 2), config.sglang.memory_fraction)
            changes["weights.backend"] = ("gloo", config.weights.backend)
        changes["rollout_pool.gpus"] = (server, config.rollout_pool.gpus)
        changes["learner_pool.gpus"] = (learner, config.learner_pool.gpus)
    return [
        text
        for key, (wanted, configured) in changes.items()
        if wanted != configured
        for text in (f"--{key}", _flag(wanted))
    ]


def _flag(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- parts of the page ---------------------------------------------------------------------------
def _assumptions(question: Question, rates: Rates) -> list[str]:
    config, work, machines = question.config, question.work, question.machines
    shape = question.shape
    rows = [
        ("model", f"{million(shape.parameters)} parameters, {million(shape.tower.parameters)} of "
         f"them vision ({shape.source})"),
        ("machines", f"{machines.source}; {machines.kind}"),
        ("a step", f"{config.learner.groups_per_step} groups of "
         f"{config.rollout.trajectories_per_sample} responses; prompts of {rates.prompt_tokens} "
         f"tokens, responses of {rates.response_tokens:.0f}"),
    ]  # fmt: skip
    if rates.group_alone_s.source == "assumed":
        rows.append(("lengths", work.source))
    share = "once a group" if config.model.share_prefix else "once a response (share_prefix off)"
    rows.append(("prompts", f"computed {share} by the learner"))
    if rates.machines != machines.kind:
        rows.append(("caution", f"the rates are of {rates.machines}, and are used as they are"))
    for source in ("measured", "assumed"):
        for note, names in _by_note(rates, source).items():
            rows.append((source, f"{', '.join(names)}: {note}"))
    return table(rows, left=2)


def _by_note(rates: Rates, source: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, name in _NAMES.items():
        rate = rates.of(key)
        if rate.source == source:
            found.setdefault(rate.note, []).append(name)
    return found


def _step(rates: Rates) -> list[str]:
    total = rates.step_s() or 1.0
    rows = [
        (_NAMES[key], seconds(rates.of(key).value), percent(rates.of(key).value / total))
        for key in _LEARNER
    ]
    return table([*rows, ("together", seconds(rates.step_s()), "100 %")], left=1)


def _splits(question: Question, plan: Plan) -> list[str]:
    has_gpus = question.machines.has_gpus
    units = ("GPUs", "GPUs") if has_gpus else ("servers", "ranks")
    head = ["", "rollout", "learner", "max", "", "idle", "idle", "staleness", ""]
    head += ["GiB a GPU" if has_gpus else "GiB each"]
    below = ["", *units, "staleness", "step", "learner", "rollout", "mean", "max", "learner"]
    rows = [[*head, "", "", "whole"], [*below, "server", "push", "run"]]
    shown = _shown(plan)
    rows += [_split(question, prediction, prediction is plan.best) for prediction in shown]
    lines = table(rows)
    if len(shown) < len(plan.predictions):
        lines += [f"  and {len(plan.predictions) - len(shown)} more, slower"]
    if not all(p.fits for p in shown):
        lines += ["  !: does not fit into the memory of a GPU"]
    if any(p.layout.is_shared for p in shown):
        lines += ["  =: rollout and learner on the same GPUs, in turn"]
    return lines


def _split(question: Question, prediction: Prediction, is_best: bool) -> list[str]:
    layout, outcome = prediction.layout, prediction.outcome
    has_gpus = question.machines.has_gpus
    return [
        ">" if is_best else "",
        str(layout.rollout_gpus if has_gpus else layout.servers),
        ("= " if layout.is_shared else "") + str(layout.ranks),
        str(prediction.max_staleness),
        seconds(outcome.step_s),
        percent(outcome.learner_idle_share),
        percent(outcome.rollout_idle_share),
        f"{outcome.staleness_mean:.1f}",
        str(outcome.staleness_max),
        ("" if prediction.learner_fits else "! ") + gib(prediction.learner_memory.total),
        ("" if prediction.server_fits else "! ") + gib(prediction.server_memory.total),
        seconds(prediction.rates.push_s.value),
        duration(total_s(prediction, question.config, question.steps)),
    ]


def _shown(plan: Plan) -> list[Prediction]:
    """All, or the splits that are fastest; in order of size."""
    fastest: dict[Layout, float] = {}
    for p in plan.predictions:
        fastest[p.layout] = min(p.step_s, fastest.get(p.layout, p.step_s))
    kept = sorted(fastest, key=lambda layout: fastest[layout])[:_MOST_SPLITS]
    best = plan.best.layout if plan.best else None
    return [p for p in plan.predictions if p.layout in kept or p.layout == best]


def _recommendation(question: Question, plan: Plan) -> list[str]:
    best = plan.best
    if best is None:
        return ["  Nothing fits. " + _smaller(question, plan.predictions)]
    lines = [f"  {_where(best.layout)}, max_staleness = {best.max_staleness}: "
             f"{seconds(best.step_s)} a step, {question.steps} steps in "
             f"{duration(total_s(best, question.config, question.steps))}."]  # fmt: skip
    more = with_more_staleness(
        best.rates, best.layout.servers, best.capacity, best.outcome, best.max_staleness
    )
    lines += [f"  {sentence}" for sentence in (_against(plan), limit_of(best), more) if sentence]
    flags = " ".join([*question.arguments, *launch_flags(question, best)])
    return [*lines, "", f"    deploy/launch_cluster.sh {flags}".rstrip()]


def _against(plan: Plan) -> str:
    """Synchronous or not."""
    synchronous, overlapping = plan.synchronous, plan.overlapping
    if synchronous is None or overlapping is None:
        return ""
    gain = synchronous.step_s / overlapping.step_s
    if plan.best is overlapping:
        return (
            f"Synchronous (max_staleness = 0) at its best takes {seconds(synchronous.step_s)} a "
            f"step: {gain:.2f} times as long."
        )
    verb = "faster than" if gain < 0.97 else "as fast as"
    return (
        f"Synchronous is {verb} overlapping here ({seconds(overlapping.step_s)} a step with "
        f"max_staleness = {overlapping.max_staleness}), and nothing is stale."
    )


def limit_of(prediction: Prediction) -> str:
    """One sentence: what a step waits for."""
    outcome, rates = prediction.outcome, prediction.rates
    largest = max(_LEARNER, key=lambda key: rates.of(key).value)
    share = rates.of(largest).value / (rates.step_s() or 1.0)
    busiest = f"{_NAMES[largest]} is {percent(share)} of its step"
    if prediction.is_synchronous:
        return (
            f"What limits it: both sides wait for each other (learner "
            f"{percent(outcome.learner_idle_share)}, rollout {percent(outcome.rollout_idle_share)} "
            f"of the time); {busiest}."
        )
    if outcome.learner_idle_share > outcome.rollout_idle_share:
        return (
            f"What limits it: generation. The learner waits {percent(outcome.learner_idle_share)} "
            f"of the time, the servers {percent(outcome.rollout_idle_share)}."
        )
    return (
        f"What limits it: the learner; {busiest}. The servers have nothing to do "
        f"{percent(outcome.rollout_idle_share)} of the time."
    )


def _smaller(question: Question, predictions: Sequence[Prediction]) -> str:
    """What would make it fit."""
    need = min(p.learner_memory.total for p in predictions)
    have = question.machines.learner_device.memory
    if any(p.learner_fits for p in predictions):
        return "Fix: more GPUs, or sglang.tensor_parallel for the servers."
    return (
        f"The learner needs {gib(need)} GiB a GPU of {gib(have)}. Fix: more GPUs, "
        "learner.offload = true, model.lora_rank, or learner.micro_batch_tokens"
    )


def _where(layout: Layout) -> str:
    servers = f"{layout.servers} server{'s' if layout.servers > 1 else ''}"
    ranks = f"{layout.ranks} learner rank{'s' if layout.ranks > 1 else ''}"
    if not layout.server_gpus:
        return f"{servers} and {ranks}"
    if layout.is_shared:
        return f"{servers} and {ranks} on the same {layout.ranks} GPUs"
    a_server = f" of {layout.server_gpus} GPUs" if layout.server_gpus > 1 else ""
    nodes = f" on {layout.learner_nodes} machines" if layout.learner_nodes > 1 else ""
    return f"{servers}{a_server} and {ranks}{nodes}"
