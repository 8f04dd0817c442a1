"""Who is up in a run, since when, how often started again, and why: python -m deploy.status RUN"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broker.protocol import Status
from common.errors import VisionOpdError
from common.output import ends_with_its_reader
from deploy.exit_codes import ExitCode
from deploy.showing.columns import aligned
from deploy.showing.data_notes import retry_text
from deploy.showing.kept import kept_text
from deploy.showing.outcome import read_summary
from deploy.showing.picture import duration, plain_line
from deploy.supervision.launcher_api import ask_status
from deploy.supervision.process_table import Entry, read_processes

_ENDS_SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.status",
        description="Shows the processes of a run: who is up, since when, restarts and why.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    folder = parser.parse_args().run
    try:
        entries = read_processes(folder)
    except VisionOpdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.REFUSED) from None
    print(text(entries, time.time()))
    print(f"\n{asyncio.run(progress(folder))}")


def text(entries: Sequence[Entry], now: float) -> str:
    """A row a process, and the ends that led to the latest restarts. Lines are not wrapped."""
    rows = [("process", "state", "for", "where", "pid", "restarts")]
    rows += [
        (
            entry.name,
            entry.state,
            duration(now - entry.since),
            entry.node or "-",
            str(entry.pid or "-"),
            str(entry.restarts),
        )
        for entry in entries
    ]
    parts = ["\n".join(aligned(rows, to_the_right=(2, 4, 5)))]
    ends = sorted((-end.time, entry.name, end.why) for entry in entries for end in entry.ends)
    if ends:
        told = [
            (name, f"{duration(now + time)} ago", why) for time, name, why in ends[:_ENDS_SHOWN]
        ]
        parts.append("\n".join(["started again because it (latest first):", *aligned(told, (1,))]))
    return "\n\n".join(parts)


async def progress(folder: Path) -> str:
    """How far the run is, what it waits for, what is wrong with its data; or its end."""
    try:
        now = await ask_status(folder)
    except VisionOpdError as error:
        return without_launcher(folder, str(error))
    if now.broker is None:
        return "\n".join(["the broker has not been heard yet", *now.waits])
    status = now.broker
    line = plain_line(status, now.elapsed_s)
    told = [line, kernels_text(status), *now.waits, retry_text(status.data), *status.data.first]
    return "\n".join(filter(None, told))


def kernels_text(status: Status) -> str:
    """What the learner's first rank computes with; empty: it has not said so (yet)."""
    told = (member.details.get("kernels", "") for member in status.members)
    found = next(filter(None, told), "")
    return f"kernels: {found}" if found else ""


def without_launcher(folder: Path, error: str) -> str:
    """A run that has ended, with what it has kept, or whose launcher was killed."""
    if not has_ended(folder):
        return f"this is how it was when last written: {error}"
    summary = read_summary(folder)
    is_complete = summary is not None and not summary.get("interrupted")
    return f"the run has ended\n{kept_text(folder, is_complete)}"


def has_ended(folder: Path) -> bool:
    """Whether a run without a launcher is over: it has a summary, or no process is left."""
    states = [entry.state for entry in read_processes(folder)]
    return read_summary(folder) is not None or all(s in ("ended", "given up") for s in states)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
