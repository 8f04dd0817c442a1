"""What a rollout process noted: generations in lanes, weight updates in a row of their own."""

import itertools
from collections.abc import Iterator

from deploy.tracing.marks import Mark, read_marks
from deploy.tracing.overview import Overview
from deploy.tracing.trace_file import TraceFile

_OF_PROCESS = ("process", "full")
_STAGES = ("shown_s", "sent_s", "answered_s")  # since its beginning


def draw_rollout(trace: TraceFile, found: Overview, role: str, offset_s: float) -> None:
    """Draw the marks of one process; each of its servers is a process of the trace."""
    lanes = Lanes()
    for mark in read_marks(found.files[role]):
        server = str(mark.facts.get("server", role))
        if mark.name == "generation":
            _draw_generation(trace, server, mark, offset_s, lanes)
        elif mark.name in _OF_PROCESS:
            row = trace.track(server, "weights")
            trace.moment(row, mark.name, mark.begin + offset_s, **mark.facts)
        else:
            about = {name: mark.facts[name] for name in ("version",) if name in mark.facts}
            row = trace.track(server, str(mark.facts.get("thread", "weights")))
            trace.slice(row, mark.name, mark.begin + offset_s, mark.end + offset_s, **about)


class Lanes:
    """Rows for what overlaps: each piece gets one that is free. Pieces come by their ends."""

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}

    def of(self, server: str, begin: float, end: float) -> str:
        ends = self._ends.setdefault(server, [])
        free = [number for number, until in enumerate(ends) if until <= begin]
        number = max(free, key=ends.__getitem__, default=len(ends))
        ends[number : number + 1] = [end]
        return f"slot {number + 1}"


def _draw_generation(
    trace: TraceFile, server: str, mark: Mark, offset_s: float, lanes: Lanes
) -> None:
    begin, end = mark.begin + offset_s, mark.end + offset_s
    row = trace.track(server, lanes.of(server, begin, end))
    group, attempt = mark.facts.get("group"), mark.facts.get("attempt")
    trace.slice(row, "generation", begin, end, group=group, attempt=attempt)
    trace.arrow_from(row, f"{group}#{attempt}", begin)
    for name, since, until in inside(mark):
        trace.slice(row, name, since + offset_s, until + offset_s, group=group)


def inside(mark: Mark) -> Iterator[tuple[str, float, float]]:
    """What a generation was made of: name, begin, end; the whole before its parts.

    An engine that does not tell when its first token came has no prefill and no decode, only the
    whole. The responses begin together, with the first token of any.
    """
    shown, sent, answered = itertools.accumulate(
        (min(mark.end, mark.begin + _number(mark, name)) for name in _STAGES), max
    )
    # Later than the whole by what the trace can tell apart: the arrow begins at the whole alone.
    yield "picture", min(shown, mark.begin + 2e-6), shown
    yield "wait_slot", shown, sent
    yield "generate", sent, answered
    if not isinstance(mark.facts.get("first_token_s"), int | float):
        return
    told = mark.facts.get("response_s")
    told = told if isinstance(told, list) else []
    ends = [max(0.0, end) for end in told if isinstance(end, int | float)]
    # The engine counts from its own arrival; SGLang's is late: it computes what n responses share
    # before it counts for any. So the longest response tells when that was.
    arrived = max(sent, answered - max(ends, default=answered - sent))
    came = min(answered, arrived + _number(mark, "first_token_s"))
    computed = min(came, arrived + _number(mark, "queue_s"))
    yield "engine_queue", arrived, computed
    yield "prefill", computed, came
    whole = [min(answered, max(came, arrived + each)) for each in ends]
    yield "decode", came, max(whole, default=answered)
    for number in sorted(range(len(whole)), key=lambda number: -whole[number]):
        yield f"response {number}", came, whole[number]


def _number(mark: Mark, name: str) -> float:
    value = mark.facts.get(name)
    return max(0.0, float(value)) if isinstance(value, int | float) else 0.0
