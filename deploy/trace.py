"""What each process of a run did when, for ui.perfetto.dev: python -m deploy.trace RUN

Writes Chrome's JSON trace format, from the journal, the marks in RUN/spans and metrics.jsonl,
during a run or after it. There is a process for the broker (the life of each group, the queue), for
each learner (steps, the parts of a step, pushes, checkpoints) and for each rollout server
(generations, weight updates). Arrows lead from a generation to the step that trained it.
"""

import argparse
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from common.config_cli import exit_with
from common.errors import ConfigError
from common.files import replacing
from common.output import ends_with_its_reader
from deploy.tracing.broker_tracks import draw_broker
from deploy.tracing.learner_tracks import draw_learner, draw_rows
from deploy.tracing.overview import Overview, look_at
from deploy.tracing.rollout_tracks import draw_rollout
from deploy.tracing.trace_file import TraceFile

_RANK_0 = "learner-0"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="none: RUN/trace.json; *.gz is compressed"
    )
    parser.add_argument(
        "--steps",
        metavar="A:B",
        type=_range,
        help="these steps, from their first lease to their end",
    )
    arguments = parser.parse_args(argv)
    try:
        out = arguments.out or arguments.run / "trace.json"
        _write(arguments.run, out, arguments.steps)
    except ConfigError as error:
        exit_with(error)


def _write(run: Path, out: Path, steps: tuple[int, int] | None) -> None:
    found = look_at(run)
    try:
        with replacing(out) as part, _opened(part, is_compressed=out.suffix == ".gz") as file:
            trace = draw(found, file, steps)
    except OSError as error:
        raise ConfigError(
            f"--out = {str(out)!r} cannot be written: {error.strerror}. Fix: --out FILE"
        ) from None
    size_mib = out.stat().st_size / 2**20
    print(f"{out}: {trace.num_events} events, {size_mib:.1f} MiB; open it at ui.perfetto.dev")
    for note in found.notes:
        print(f"note: {note}")


def draw(found: Overview, file: IO[str], steps: tuple[int, int] | None = None) -> TraceFile:
    """Write the trace of a run.

    Args:
        steps: the first and the last one; None means all.

    Raises:
        ConfigError: the run has no such steps.
    """
    offsets = {role: _offset(found, role) for role in found.files}
    rank_0 = offsets.get(_RANK_0, 0.0)
    starts = [found.first[role] + offsets[role] for role in found.first]
    if found.begun_s is not None:
        starts.append(found.broker_wall(found.begun_s))
    for step, row in found.rows.items():
        if (span := found.span_of(step, rank_0)) is not None:
            starts.append(span[0] - row.wait_s)
    trace = TraceFile(file, min(starts))
    if steps is not None:
        trace.begin, trace.end = _window(found, steps, rank_0)
    trace.open()
    if found.begun_s is not None:
        draw_broker(
            trace,
            found,
            lambda step: found.span_of(step, rank_0),
            lambda server: server in found.files or server.rpartition(".")[0] in found.files,
        )
    draw_rows(trace, found, rank_0)
    for role in found.files:
        if role.startswith("learner"):
            draw_learner(trace, found, role, offsets[role])
        elif role.startswith("rollout"):
            draw_rollout(trace, found, role, offsets[role])
    for note in found.notes:
        trace.moment(trace.track("notes", "notes"), note, max(trace.begin, trace.origin))
    trace.close(run=str(found.run), zero_s_since_1970=trace.origin, notes=found.notes)
    return trace


def _offset(found: Overview, role: str) -> float:
    if found.begun_s is None or not found.anchors:
        return 0.0
    bounds = found.bounds_of(role)
    hosts = found.hosts
    if said := bounds.said(role, hosts.get(role) != hosts.get("broker", hosts.get(role))):
        found.notes.append(said)
    return bounds.offset_s


def _window(found: Overview, steps: tuple[int, int], offset_s: float) -> tuple[float, float]:
    known = sorted(found.steps.keys() | found.rows.keys())
    chosen = [step for step in known if steps[0] <= step <= steps[1]]
    if not chosen:
        there = f"steps {known[0]} to {known[-1]}" if known else "no steps yet"
        raise ConfigError(f"--steps = {steps[0]}:{steps[1]}: the run has {there}. Fix: name some")
    first, last = found.span_of(chosen[0], offset_s), found.span_of(chosen[-1], offset_s)
    assert first is not None and last is not None, "they are known"
    leases = [found.broker_wall(found.leased_s[step]) for step in chosen if step in found.leased_s]
    return min(first[0], *leases), last[1]


def _opened(path: Path, is_compressed: bool) -> IO[str]:
    if is_compressed:
        return cast(IO[str], gzip.open(path, "wt", encoding="utf-8", compresslevel=5))
    return path.open("w", encoding="utf-8")


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of steps, such as 10:20")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
