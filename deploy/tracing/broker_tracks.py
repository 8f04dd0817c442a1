"""What the journal tells: the life of each group, the queue, arrows to the step that trained it."""

from collections.abc import Callable

from broker.storage.frames import CorruptJournal
from deploy.tracing.lives import GroupLife, LifePhase, Lives
from deploy.tracing.overview import Overview
from deploy.tracing.trace_file import Part, TraceFile

_BROKER = "broker"


def draw_broker(
    trace: TraceFile,
    found: Overview,
    step_span: Callable[[int], tuple[float, float] | None],
    has_marks: Callable[[str], bool],
) -> None:
    """Draw the journal.

    Args:
        step_span: begin and end of a step on the learner's row.
        has_marks: whether a server has noted its own generations.
    """
    lives = Lives()
    groups = trace.track(_BROKER, "groups")
    queue = trace.track(_BROKER, "queue")
    try:
        for record in found.records():
            at = found.broker_wall(record.seconds)
            before = (dict(lives.counts), lives.slots)
            for life in lives.read(record):
                _draw_life(trace, found, life)
                if life.server and not has_marks(life.server):
                    _draw_lease(trace, found, life)
                if life.ending == "trained" and life.step is not None:
                    span = step_span(life.step)
                    if span is not None and found.trained_by.get(life.step) == record.number:
                        trace.arrow_to(trace.track("learner-0", "steps"), life.key, span[0])
            if lives.served is not None:
                server, version = lives.served
                trace.moment(groups, f"{server} serves version {version}", at)
            if (lives.counts, lives.slots) != before:
                phases = {phase.value: number for phase, number in lives.counts.items()}
                trace.counter(queue, "groups in", at, **phases)
                trace.counter(queue, "slots used", at, slots=lives.slots)
    except CorruptJournal:  # the overview has said it
        pass
    for life in lives.close():
        _draw_life(trace, found, life)


def _draw_life(trace: TraceFile, found: Overview, life: GroupLife) -> None:
    times = [life.begin_s, life.submitted_s, life.taken_s, life.end_s]
    begin, submitted, taken, end = (t if t is None else found.broker_wall(t) for t in times)
    assert begin is not None and end is not None
    about = {"group": life.group_id, "attempt": life.attempt, "ending": life.ending}
    if life.server:
        about["server"] = life.server
    if life.submitted_s is not None and life.tokens:
        about["tokens"] = life.tokens
    if life.step is not None and life.oldest_version is not None:
        about |= {"step": life.step, "staleness": life.step - 1 - life.oldest_version}
    parts = [Part("group", begin, end, about)]
    bounds = [begin, *(t for t in (submitted, taken) if t is not None), end]
    if not life.server:  # what was undone waits again, without another lease
        bounds, phases = bounds[1:], list(LifePhase)[1:]
    else:
        phases = list(LifePhase)
    for phase, since, until in zip(phases, bounds, bounds[1:], strict=False):
        parts.append(Part(phase.value, since, until, {}))
    trace.life(trace.track(_BROKER, "groups"), "group", life.key, parts)


def _draw_lease(trace: TraceFile, found: Overview, life: GroupLife) -> None:
    """Draw a lease at its server, which has noted nothing itself."""
    end_s = life.end_s if life.submitted_s is None else life.submitted_s
    begin, end = found.broker_wall(life.begin_s), found.broker_wall(end_s)
    track = trace.track(life.server, f"slot {life.lane}")
    trace.slice(track, "generation", begin, end, group=life.group_id, ending=life.ending)
    if life.submitted_s is not None:
        trace.arrow_from(track, life.key, begin)
