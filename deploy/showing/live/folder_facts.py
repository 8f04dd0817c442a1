"""What a run folder says of its run, read anew each time: files of any size, whole or half-written.

Blocks for as long as the disk does: it is called in a thread of its own.
"""

import json
import re
from collections import deque
from pathlib import Path

from broker.protocol import Status
from common.errors import VisionOpdError
from common.files import whole_lines
from common.log_files import processes_in
from deploy.planning.explain_text import sentence
from deploy.planning.run_files import RunFiles, read_run
from deploy.showing.live.facts import FolderFacts, UnusableSamples
from deploy.showing.log_reading import Line, LogSource, harmless, merged
from deploy.supervision.process_table import read_processes

_RECENT_BYTES = 512 * 2**10  # of a file of rows: some hundred steps
_LOG_LINES = 200  # of each process that are looked through
_WORTH_A_LOOK = re.compile(rb"\b(WARNING|ERROR|CRITICAL)\b|^Traceback|^\w*(Error|Exception)\b")
_DATE = re.compile(r"^\[?\d{4}-\d\d-\d\d[ T](\d\d:\d\d:\d\d)[.,\d]*(?:Z|[+-]\d\d:?\d\d)?")
_TOLD = 200  # log lines, and samples
_FIRST = 3


def read_folder(folder: Path, view: str, status: Status | None) -> FolderFacts:
    """What a view needs.

    Args:
        view: its name.
        status: the broker's; None if it has not been heard.
    """
    problems: list[str] = []
    run = _run_of(folder, problems)
    try:
        processes = tuple(read_processes(folder))
    except VisionOpdError as error:
        processes = ()
        problems.append(str(error))
    return FolderFacts(
        () if run is None else tuple(run.steps),
        () if run is None else tuple(run.measurements),
        "" if run is None else sentence(run, status),
        quarantine_of(folder),
        processes,
        warnings_of(folder / "logs") if view == "logs" else (),
        "; ".join(problems),
    )


def _run_of(folder: Path, problems: list[str]) -> RunFiles | None:
    try:
        return read_run(folder, _RECENT_BYTES)
    except (VisionOpdError, OSError) as error:
        problems.append(str(error))
        return None


def quarantine_of(folder: Path) -> UnusableSamples:
    """The samples of RUN/quarantine.jsonl; lines that are no such thing are left out."""
    try:
        lines = whole_lines(folder / "quarantine.jsonl")
    except (OSError, UnicodeDecodeError):
        return UnusableSamples()
    chosen = lines if len(lines) <= _TOLD else [*lines[:_FIRST], *lines[_FIRST - _TOLD :]]
    return UnusableSamples(len(lines), tuple(filter(None, map(_told, chosen))))


def _told(line: str) -> str:
    try:
        entry = json.loads(line)
        where = f"row {entry['row']}" if entry.get("row") is not None else entry["where"]
        return f"{entry['sample_id'] or '(no sample_id)'} ({where}): {entry['reason']}"
    except (ValueError, KeyError, TypeError):
        return ""


def warnings_of(logs: Path) -> tuple[tuple[str, str], ...]:
    """The last warnings and errors of all processes, by their times."""
    sources = []
    for name in processes_in(logs):
        source = LogSource(logs / f"{name}.log")
        source.start_at(_LOG_LINES)
        sources.append(source)
    try:
        found = (line for line in merged(sources) if _WORTH_A_LOOK.search(line.text))
        last = deque(found, maxlen=_TOLD)
    except OSError:
        return ()
    finally:
        for source in sources:
            source.close()
    return tuple((line.name, _short(line)) for line in last)


def _short(line: Line) -> str:
    """A line without its date and the name that stands before it anyway."""
    text = harmless(line.text).decode(errors="replace")
    return _DATE.sub(r"\1", text, count=1).replace(f" {line.name} ", " ", 1)
