"""What limits a run and what to turn, in one sentence: by rows of figures alone.

A run that goes on is judged by its last steps, one that is over by all its time, as `accounting`
divides it. Of the seconds that the learner did not compute in, the largest share names the limit.
Where it waited for samples, the servers tell why: busy, they are too few; idle as well, both sides
wait for each other, because all slots are taken (staleness), the batch was there (images are
decoded) or nothing was leased (broker). `verdict` goes on from there with the run's rates and a
simulation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from broker.protocol import Role, Status
from common.config import RunConfig
from common.figure_rows import Row
from common.full_disk import WAITS_FOR_ROOM
from deploy.planning.accounting import seconds_of
from deploy.planning.rates import WORK_PARTS
from deploy.planning.run_files import RunFiles
from deploy.planning.tables import percent
from deploy.planning.verdict import knob

WINDOW = 20  # steps that are "now"
_FEWEST = 3  # steps after the first, which warms up
_MUCH = 0.10  # share of the time that is worth a word
_LARGE = 0.20  # from which what stands beside the learner's work limits more than the work does
_IDLE = 0.20  # share from which servers count as idle
_TAKEN = 0.75  # share of the slots from which they count as all taken
_PAUSED, _PAUSE_ASKED = 5.0, 2  # as the learner's phase and the metric health/action have it


@dataclass(frozen=True)
class Stretch:
    """A stretch of a run: shares of the learner's time, and what the servers did meanwhile."""

    config: RunConfig
    is_over: bool
    span: str  # in words
    started: float
    waited: float  # for samples
    late: float  # the same in steady steps: the first one waits for servers that have just begun
    pushed: float  # that pushes kept it waiting
    measured: float
    dearest: Row | None  # the measurement that took longest; None: nothing was measured
    is_between: bool  # whether measurements between steps took more than those before and after all
    saved: float
    worked: float
    largest: str  # part of its work
    largest_share: float  # of its work
    servers: int
    idle: float | None  # share of the servers' time; None: not observed
    slots: float | None  # share that is in use
    ready: float | None  # groups that wait for the learner


def window_of(run: RunFiles, status: Status | None, idle: float | None = None) -> Stretch | None:
    """The last steps of a run that goes on, or all of one that is over; None: too few.

    Args:
        idle: share of the servers' time, where that is known better than it was observed.
    """
    rows = _steady(run)
    if len(rows) < _FEWEST:
        return None
    first, last = rows[0]["step"], rows[-1]["step"]
    taken, span = run, "the run"
    if not run.is_over:
        seen = [row for row in run.measurements if first <= row["step"] <= last]
        taken, span = replace(run, steps=rows, measurements=seen), f"the last {len(rows)} steps"
    total, parts = seconds_of(taken)
    if not run.is_over or run.steps[0]["step"] > 1:  # what was before the rows is no start
        total -= parts["start-up"]
        parts["start-up"] = 0.0
    if run.is_over and run.steps[0]["step"] > 1:
        span = f"the last {len(run.steps)} steps"
    total = total or 1.0
    work = {part.name: parts[part.name] for part in WORK_PARTS}
    worked = sum(work.values())
    largest = max(work, key=lambda name: work[name])
    observed = [row for row in run.observations if first <= row["step"] <= last]
    slots = run.config.learner.groups_per_step * (run.config.broker.max_staleness + 1)
    used = _mean(observed, "broker/slots_used")
    return Stretch(
        run.config,
        run.is_over,
        span,
        parts["start-up"] / total,
        parts["waiting for samples"] / total,
        _sum(rows, "learner/wait_batch_s") / (sum(map(_spent, rows)) or 1.0),
        parts["push stall"] / total,
        parts["evaluation"] / total,
        max(taken.measurements, key=lambda row: row["evaluation/stall_s"], default=None),
        _is_between(taken),
        parts["checkpoint"] / total,
        worked / total,
        largest,
        work[largest] / (worked or 1.0),
        _servers(run, status),
        _mean(observed, "rollout/idle_share") if idle is None else idle,
        None if used is None else used / slots,
        _mean(observed, "broker/groups_ready"),
    )


def limit(
    run: RunFiles,
    status: Status | None = None,
    waits: Sequence[str] = (),
    idle: float | None = None,
) -> str:
    """What limits a run, and what to turn.

    Args:
        status: the broker's; None where it cannot be asked.
        waits: lines on what the run waits for, as the launcher tells them.
        idle: as for `window_of`.
    """
    if (halt := _halt(run, status)) is not None:
        return halt
    if not run.steps:
        if run.is_over:
            return "No step was trained: logs/learner-0.log says why it ended."
        return f"It starts: no step is trained yet{f' ({waits[0]})' if waits else ''}."
    window = window_of(run, status, idle)
    if window is None:
        count = f"{len(run.steps)} step{'' if len(run.steps) == 1 else 's'} trained"
        return f"Too few steps to say what limits it: {count}, {_FEWEST + 1} are needed."
    return _sentence(window)


# ---- what stops it -------------------------------------------------------------------------------
def _halt(run: RunFiles, status: Status | None) -> str | None:
    """Why nothing is trained now, for other reasons than speed; None means that it is."""
    if run.is_over:
        return None
    members = () if status is None else status.members
    if any(member.gauges.get(WAITS_FOR_ROOM) for member in members):
        return "A full disk stops it: free space there, and it goes on by itself."
    if status is not None and status.store_failure:
        return (
            f"The broker's disk stops it ({status.store_failure}): free space or restore "
            f"{run.folder}, and it goes on by itself."
        )
    learner = next((m.gauges for m in members if m.role is Role.LEARNER), None)
    if learner is None:  # by its rows: it pauses after the row of the step that asked for it
        is_paused = bool(run.steps) and run.steps[-1].get("health/action") == _PAUSE_ASKED
    else:
        is_paused = learner.get("phase") == _PAUSED
    if is_paused:
        return (
            f"A health gate paused it after step {run.steps[-1]['step'] if run.steps else 0}: the "
            "last warning in logs/learner-0.log says why and how to go on; health.action = warn "
            "would not stop."
        )
    return None


# ---- what slows it -------------------------------------------------------------------------------
def _sentence(window: Stretch) -> str:
    causes = {
        _waiting: min(window.waited, window.late),
        _pushing: window.pushed,
        _measuring: window.measured,
        _saving: window.saved,
    }
    cause = max(causes, key=lambda one: causes[one])
    told, share = _learner(window), window.worked
    if causes[cause] >= (_MUCH if cause is _waiting else _LARGE):
        told, share = cause(window), causes[cause]
    if window.started <= max(share, _MUCH):
        return told
    return f"{told[:-1]}; its start took {percent(window.started)} of the run."


def _limits(window: Stretch, what: str, are_many: bool = False) -> str:
    now = "limit" if are_many else "limits"
    return f"{what} {'limited' if window.is_over else now} it: "


def _waiting(window: Stretch) -> str:
    waited = f"the learner waited {percent(window.waited)} of {window.span} for batches"
    if window.idle is None or window.idle < _IDLE:
        return _limits(window, "Rollout") + f"{waited}; {_more_servers(window)}."
    both = f"{waited} while the servers had nothing to do {percent(window.idle)} of theirs"
    config = window.config
    if window.ready is not None and window.ready >= config.learner.groups_per_step:
        count = config.learner.render_processes
        key = f"{'none' if count is None else count} > {2 * (count or 1)}"
        return (
            _limits(window, "Decoding images") + f"{waited}, and they were there; raise "
            f"learner.render_processes {key}, if there are cores for it."
        )
    staleness = config.broker.max_staleness
    if window.slots is None:
        return (
            _limits(window, "Waiting for each other") + f"{both}; raise broker.max_staleness "
            f"{staleness} > {staleness + 1}, or learner.render_processes where batches were there "
            "(the queue was not observed)."
        )
    if window.slots < _TAKEN:
        return (
            _limits(window, "The broker") + f"{both}, with {percent(1 - window.slots)} of the "
            "slots free; see logs/broker.log: a slow disk (broker.fsync = "
            f"{config.broker.fsync}), or a machine without a core for it."
        )
    return (
        _limits(window, "The staleness bound") + f"{both}, with all slots taken; raise "
        f"broker.max_staleness {staleness} > {staleness + 1}."
    )


def _more_servers(window: Stretch) -> str:
    """The number with which nothing would be waited for, at most twice as many."""
    count = max(1, window.servers)
    wanted = min(2 * count, max(count + 1, math.ceil(count / (1 - min(window.late, 0.99)))))
    if window.config.rollout.engine_urls:
        return f"attach more engines (rollout.engine_urls names {count})"
    noun = "a server" if wanted == count + 1 else f"{wanted - count} servers"
    return f"add {noun} (rollout.servers {count} > {wanted})"


def _pushing(window: Stretch) -> str:
    config = window.config
    groups = config.learner.groups_per_step
    turn = f"push less often: learner.groups_per_step {groups} > {2 * groups}"
    if config.weights.dtype == "float32":
        turn = "send half the bytes: weights.dtype float32 > bfloat16"
    elif config.weights.transport == "files":
        turn = "send over the network: weights.transport files > broadcast"
    told = f"they kept the learner waiting {percent(window.pushed)} of {window.span}"
    return _limits(window, "Weight pushes", are_many=True) + f"{told}; {turn}."


def _measuring(window: Stretch) -> str:
    section, row = window.config.evaluation, window.dearest or {}
    count = int(row.get("evaluation/samples") or section.samples)
    turn = f"measure fewer samples (evaluation.samples {section.samples or f'0, all {count},'} > "
    turn += f"{max(1, count // 2)})"
    if section.every_steps and window.is_between:
        every = section.every_steps
        turn = f"measure less often (evaluation.every_steps {every} > {2 * every})"
    told = f"it took {percent(window.measured)} of {window.span}"
    return _limits(window, "Measuring accuracy") + f"{told}; {turn}."


def _saving(window: Stretch) -> str:
    every = window.config.checkpoint.every_steps
    return (
        _limits(window, "Saving checkpoints")
        + f"the learner stood still {percent(window.saved)} of {window.span} for it; save less "
        f"often (checkpoint.every_steps {every} > {2 * every})."
    )


def _learner(window: Stretch) -> str:
    ranks = window.config.learner.ranks
    turn = f"learner.ranks {ranks} > {2 * ranks}"
    if window.idle is not None and window.idle < _MUCH:
        return (
            f"It {'was' if window.is_over else 'is'} balanced: the learner waited "
            f"{percent(window.waited)} of {window.span}, the servers had nothing to do "
            f"{percent(window.idle)}; only more of both is faster (rollout.servers "
            f"{window.servers} > {2 * window.servers} and {turn})."
        )
    idle = f" while the servers had no work {percent(window.idle)}" if window.idle else ""
    return (
        _limits(window, "The learner")
        + f"{window.largest} is {percent(window.largest_share)} of its work, and it waited only "
        f"{percent(window.waited)} of {window.span}{idle}; raise {turn} at the next start, on as "
        f"many GPUs or cores{knob(window.largest, window.config)}."
    )


# ---- figures of rows -----------------------------------------------------------------------------
def _steady(run: RunFiles) -> list[Row]:
    """The rows to judge by: not the first, nor those at the end, when no server works any more."""
    rows = run.steps[1:]
    if run.is_over:
        return rows[: max(_FEWEST, len(rows) - run.config.broker.max_staleness)]
    return rows[-WINDOW:]


def _is_between(run: RunFiles) -> bool:
    """Whether the measurements after the start and before the end took most of all their time."""
    last = run.steps[-1]["step"] if run.is_over else math.inf
    inner = [row for row in run.measurements if 0 < row["step"] < last]
    return 2 * _sum(inner, "evaluation/stall_s") > _sum(run.measurements, "evaluation/stall_s")


def _spent(row: Row) -> float:
    """Seconds of the learner's clock that a row tells of."""
    return sum(
        float(row.get(name) or 0.0)
        for name in ("learner/step_s", "learner/wait_batch_s", "checkpoint/stall_s")
    )


def _sum(rows: Sequence[Row], name: str) -> float:
    return sum(float(row.get(name) or 0.0) for row in rows)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return fmean(values) if values else None


def _servers(run: RunFiles, status: Status | None) -> int:
    """Servers that are there, as far as the broker was asked; else as many as are configured."""
    members = () if status is None else status.members
    there = sum(member.role is Role.ROLLOUT for member in members)
    return there or len(run.config.rollout.engine_urls) or run.config.rollout.servers
