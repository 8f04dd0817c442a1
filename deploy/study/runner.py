"""Runs a study's runs one after the other, also after one that failed."""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.exit_codes import ExitCode
from deploy.study.launching import launch
from deploy.study.planned_runs import Run, State, keep_record, state_of

_VERB = {State.NEW: "begins", State.CUT_OFF: "goes on", State.CHANGED: "begins anew"}
_TAIL = 6  # lines of a failed run's log that are shown


@dataclass(frozen=True)
class Launching:
    command: Sequence[str]  # the launcher; a run's arguments follow
    timeout_s: float | None
    stop: asyncio.Event
    at_once: asyncio.Event


async def run_all(
    runs: Sequence[Run],
    launching: Launching,
    report: Callable[[str], None],
    on_end: Callable[[Run], None],
) -> Mapping[str, int]:
    """Exit codes by name of the runs that did not come to their end; a stop ends the sequence.

    Args:
        on_end: called with each run that was done here.

    Raises:
        OSError: the launcher cannot be started, or nothing be written.
    """
    failed: dict[str, int] = {}
    for number, run in enumerate(runs, start=1):
        state = state_of(run)
        if state is State.DONE:
            continue
        if launching.stop.is_set():
            break
        report(f"[{number}/{len(runs)}] {run.name}: {_VERB[state]}; log: {run.log}")
        code = await _run(run, state, launching)
        if state_of(run) is State.DONE and code == ExitCode.TRAINED:
            on_end(run)
        elif not launching.stop.is_set():
            failed[run.name] = code
            report(f"{run.name} failed with exit code {code}; its log ends:\n{_tail(run.log)}")
    return failed


async def _run(run: Run, state: State, launching: Launching) -> int:
    if state is State.CHANGED:
        shutil.rmtree(run.folder)
    if state is not State.CUT_OFF:
        keep_record(run)
    arguments = run.resuming_arguments if state is State.CUT_OFF else run.arguments
    command = [*launching.command, *arguments]
    return await launch(command, run.log, launching.stop, launching.at_once, launching.timeout_s)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL:])
