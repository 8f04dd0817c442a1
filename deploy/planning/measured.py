"""Rates from a run, or from the first steps of one: medians, without the first step of a process.

What the run did not show stays as it is assumed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, linear_regression, median
from typing import Any

from common.errors import ConfigError
from common.figure_rows import Row
from deploy.planning.journal_facts import Generation, JournalFacts, read_journal
from deploy.planning.rates import STEP_PARTS, Rate, Rates
from deploy.planning.run_files import RunFiles

_AT_ONCE_S = 0.02  # between a step and taking the next batch, if that had been waiting
_FEW = 3  # waits or groups, below which a median says little
_FEWEST = 2  # steps that are kept, even if servers were idle by then
_SPREAD = 64


def measured_rates(run: RunFiles, assumed: Rates, journal: JournalFacts | None) -> Rates:
    """`assumed`, with everything replaced that the run tells.

    Args:
        assumed: for the machines of that run and as many ranks.
        journal: the run's; None means that it kept none.

    Raises:
        ConfigError: the run has trained no step but the first.
    """
    rows = steady_rows(run)
    if not rows:
        raise ConfigError(
            f"{run.folder} has {len(run.steps)} trained steps: too few for rates. Fix: let it "
            "train a few more"
        )
    where = f"median of {len(rows)} steps"
    found: dict[str, Rate] = {}
    changes: dict[str, Any] = found  # the same, for `replace`
    for part in STEP_PARTS:
        values = [row[part.metric] for row in rows if part.metric in row]
        if values:
            found[part.rate] = Rate(median(values), "measured", where)
        elif part.rate == "vision_s":  # of an older run: in the student's forward
            found[part.rate] = Rate(0.0, "measured", "in student_s")
    known = sum(found[part.rate].value for part in STEP_PARTS if part.rate in found)
    step_s = median(row["learner/step_s"] for row in rows)
    found["other_s"] = Rate(max(0.0, step_s - known) + _between(run, rows), "measured", where)
    found |= _measurements(run)
    found |= _startup(run)
    if journal is not None:
        found |= _pushes(journal, rows)
        found |= _prepare(journal, rows)
    rates = replace(assumed, ranks=run.config.learner.ranks, **changes)
    return rates if journal is None else _with_generation(rates, journal, rows)


def steady_rows(run: RunFiles) -> list[Row]:
    """Training rows without the first, which warms up, and those at the end.

    For the last steps no server generates any more: the learner has the machine to itself.
    """
    steps = run.steps
    rows = [row for row, before in zip(steps[1:], steps, strict=False) if _follows(row, before)]
    alone = run.config.broker.max_staleness if run.is_over else 0
    return rows[: max(_FEWEST, len(rows) - alone)]


def _follows(row: Row, before: Row) -> bool:
    return bool(row["step"] == before["step"] + 1)


def step_seconds(run: RunFiles) -> list[float]:
    """Seconds from one trained step to the next, where nothing was measured or saved in between."""
    busy = {row["step"] for row in run.measurements}
    return [
        row["time_s"] - before["time_s"]
        for before, row in zip(run.steps, run.steps[1:], strict=False)
        if _follows(row, before) and before["step"] not in busy
    ]


def _between(run: RunFiles, rows: Sequence[Row]) -> float:
    """Seconds a step that are in neither step nor wait: writing figures."""
    inside = {row["step"]: row["learner/step_s"] + row["learner/wait_batch_s"] for row in rows}
    busy = {row["step"] for row in run.measurements}
    gaps = [
        row["time_s"] - before["time_s"] - inside[row["step"]] - row.get("checkpoint/stall_s", 0.0)
        for before, row in zip(run.steps, run.steps[1:], strict=False)
        if row["step"] in inside and before["step"] not in busy
    ]
    return max(0.0, median(gaps)) if gaps else 0.0


def _measurements(run: RunFiles) -> dict[str, Rate]:
    """The last is what the learner waits for; others are answered beside its steps."""
    found: dict[str, Rate] = {}
    if run.measurements:
        row = run.measurements[-1]
        value = row["evaluation/stall_s"] / max(1, row["evaluation/samples"])
        note = f"{row['evaluation/samples']} samples"
        found["evaluation_sample_s"] = Rate(value, "measured", note)
    saved = [r["checkpoint/stall_s"] for r in run.steps if r.get("checkpoint/stall_s", 0) > 0]
    if saved:
        found["checkpoint_s"] = Rate(median(saved), "measured", f"median of {len(saved)}")
    return found


def startup_of(run: RunFiles) -> float | None:
    """Seconds from the learner's start to its first measurement or step; None means neither yet."""
    rows = run.rows
    if not rows:
        return None
    first = rows[0]
    spent = first.get("evaluation/stall_s", 0.0) + first.get("learner/step_s", 0.0)
    waited = first.get("learner/wait_batch_s", 0.0) + first.get("checkpoint/stall_s", 0.0)
    return max(0.0, float(first["time_s"] - spent - waited))


def _startup(run: RunFiles) -> dict[str, Rate]:
    seconds = startup_of(run)
    return {} if seconds is None else {"startup_s": Rate(seconds, "measured", "this start")}


def _pushes(journal: JournalFacts, rows: Sequence[Row]) -> dict[str, Rate]:
    steps = {row["step"] for row in rows}
    lags = [
        journal.served_s[step] - ended_s
        for step, ended_s in journal.acknowledged_s.items()
        if step in steps and journal.served_s.get(step, 0.0) > ended_s
    ]
    if not lags:
        return {}
    lag = Rate(median(lags), "measured", f"median of {len(lags)} pushes")
    sent = [row["sync/publish_s"] for row in rows if "sync/publish_s" in row]
    pause = min(median(sent) if sent else lag.value, lag.value)
    return {"push_s": lag, "pause_s": Rate(pause, "measured", "the sending")}


def _prepare(journal: JournalFacts, rows: Sequence[Row]) -> dict[str, Rate]:
    """From waits for batches that were complete before the learner could ask."""
    known = [  # how long the learner waited, and when after that began the batch was complete
        (row["learner/wait_batch_s"], taken_s - asked_s)
        for row in rows
        if (taken_s := journal.taken_s.get(row["step"])) is not None
        and (asked_s := journal.acknowledged_s.get(row["step"] - 1)) is not None
    ]
    waits = [wait_s for wait_s, complete_s in known if complete_s < _AT_ONCE_S]
    late = [wait_s - complete_s for wait_s, complete_s in known]
    values = waits if len(waits) >= _FEW else late
    if not values:
        return {}
    note = f"waits for {len(values)} batches, less the time until they were complete"
    return {"prepare_s": Rate(max(0.0, median(values)), "measured", note)}


def _with_generation(rates: Rates, journal: JournalFacts, rows: Sequence[Row]) -> Rates:
    """What a group takes: its size is measured, how it splits only if concurrency varied."""
    first = rows[0]["step"]
    begin_s = journal.acknowledged_s.get(first - 1, 0.0)
    groups = [g for g in journal.generations if g.begin_s >= begin_s] or journal.generations
    if len(groups) < _FEW:
        return rates
    alone, shared, note = _latency(groups, rates)
    works = [max(group.lengths) for group in groups]
    mean = fmean(works)
    stride = max(1, len(works) // _SPREAD)
    return replace(
        rates,
        prompt_tokens=round(fmean(g.prompt_tokens for g in groups)),
        response_tokens=fmean(length for g in groups for length in g.lengths),
        spread=_normalised([work / mean for work in works[::stride]]),
        group_alone_s=Rate(alone, "measured", note),
        group_shared_s=Rate(shared, "measured", note),
    )


def _latency(groups: Sequence[Generation], assumed: Rates) -> tuple[float, float, str]:
    """(alone, shared) of seconds = alone + in flight * shared, by least squares if that is told."""
    seconds = [group.end_s - group.begin_s for group in groups]
    crowds = [group.in_flight for group in groups]
    note = f"{len(groups)} groups"
    mean_s, mean_crowd = fmean(seconds), fmean(crowds)
    low, high = _quantile(crowds, 0.1), _quantile(crowds, 0.9)
    if high > 1.5 * low:
        shared, alone = linear_regression(crowds, seconds)
        if shared >= 0 and alone >= 0:
            return alone, shared, f"{note}, {low:.0f} to {high:.0f} in flight"
    expected = assumed.group_alone_s.value + mean_crowd * assumed.group_shared_s.value
    factor = mean_s / expected if expected > 0 else 0.0
    note += f", all with {mean_crowd:.0f} in flight: the split between the two is assumed"
    alone, shared = assumed.group_alone_s.value, assumed.group_shared_s.value
    return factor * alone, factor * shared, note


def _quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _normalised(works: Sequence[float]) -> tuple[float, ...]:
    mean = fmean(works)
    return tuple(round(work / mean, 4) for work in works)


def run_folder_rates(folder: Path) -> Rates:
    """`run_rates` of a run that has not been read yet."""
    from deploy.planning.run_files import read_run

    return run_rates(read_run(folder), read_journal(folder))


def run_rates(run: RunFiles, journal: JournalFacts | None) -> Rates:
    """The rates of a run by itself; what it does not tell is assumed for its configured machines.

    Raises:
        ConfigError: too few steps, or a model or GPU that is not known.
    """
    from deploy.planning.assumed import assumed_rates
    from deploy.planning.layout import configured_layout, configured_machines
    from deploy.planning.shape import shape_of
    from deploy.planning.workload import workload_of

    config = run.config
    shape = shape_of(config.model.path)
    machines = configured_machines(config, None, None)
    layout = configured_layout(config, machines)
    assumed = assumed_rates(config, shape, workload_of(config, shape), machines, layout)
    return measured_rates(run, assumed, journal)
