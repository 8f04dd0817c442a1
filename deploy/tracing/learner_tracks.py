"""What a learner's rank noted, or, where it noted nothing, what its rows of metrics say."""

from deploy.tracing.marks import Mark, read_marks
from deploy.tracing.overview import Overview
from deploy.tracing.trace_file import TraceFile

# Rows by thread; steps and waits have one of their own, which arrows lead to.
_ROWS = {"publisher": "pushes", "gatherer": "copies for pushes", "checkpoint": "checkpoints"}
_STEPS = ("wait_batch", "step")
_MOMENTS = ("process", "full", "goes_on")


def draw_learner(trace: TraceFile, found: Overview, role: str, offset_s: float) -> None:
    """Draw the marks of one rank."""
    trace.track(role, "steps")
    trace.track(role, "main thread")
    for mark in read_marks(found.files[role]):
        begin, end = mark.begin + offset_s, mark.end + offset_s
        row = trace.track(role, _row(mark))
        about = {name: value for name, value in mark.facts.items() if name != "thread"}
        if mark.name in _MOMENTS:
            trace.moment(row, mark.name, begin, **about)
            continue
        is_undone = mark.step is not None and found.undone[role].has(mark.step, mark.begin)
        trace.slice(row, f"undone {mark.name}" if is_undone else mark.name, begin, end, **about)


def draw_rows(trace: TraceFile, found: Overview, offset_s: float) -> None:
    """Draw the curves, and the steps that rank 0 has no marks of.

    Args:
        offset_s: of the clock of rank 0.
    """
    steps = trace.track("learner-0", "steps")
    for step, row in sorted(found.rows.items()):
        span = found.span_of(step, offset_s)
        assert span is not None, "it has a row"
        begin, end = span
        if step not in found.steps:
            if row.wait_s > 0:
                trace.slice(steps, "wait_batch", begin - row.wait_s, begin, step=step)
            trace.slice(steps, "step", begin, end, step=step, **row.parts)
        for curve, values in row.curves.items():
            if values:
                trace.counter(steps, curve, end, **values)


def _row(mark: Mark) -> str:
    if mark.name in _STEPS:
        return "steps"
    thread = str(mark.facts.get("thread", "main thread"))
    return _ROWS.get(thread, thread)
