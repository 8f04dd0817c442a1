"""Starts processes again that live and die together, with growing pauses, up to a budget."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import FINAL_EXIT_CODE, FinalError, VisionOpdError
from common.lifecycle import set_or_after
from common.log_files import LogTail
from common.restart_budget import RestartBudget
from deploy.supervision.placement import NoPlace, PlaceLost
from deploy.supervision.process_set import End, MakeRequests, ProcessSet
from deploy.supervision.process_table import ProcessTable

_TAIL_LINES = 20
_REASON = re.compile(r"(?: ERROR +\S+ \S+: |^  (?:config|data|broker) error: )(.+)$")


class ProcessFailed(VisionOpdError):
    """A process ended before its time and is not started again."""


class ProcessRefused(ProcessFailed, FinalError):
    """It says that another start would end in the same way."""


@dataclass(eq=False, kw_only=True)
class RestartLoop:
    """Runs one set of processes, life after life, up to a budget of restarts."""

    names: list[str]  # of the processes
    make_set: Callable[[asyncio.Event], ProcessSet]  # another life; it ends when the event is set
    make_requests: MakeRequests  # what to run, once places are known
    budget: RestartBudget
    table: ProcessTable
    log_folder: Path
    place_timeout_s: float
    # Whether the processes have done their work before in this run: then another start may help.
    is_known: Callable[[], bool]
    is_done: Callable[[End], Awaitable[bool]]  # whether this end is the last one, as it should be
    may_wait: bool  # the run goes on without it for as long as no machine has room
    report: Callable[[str], None]  # gets a line for people
    on_up: Callable[[], None]  # called when all processes of a life run
    is_up: asyncio.Event = field(init=False, default_factory=asyncio.Event)  # all of them run
    _ending: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _has_told: bool = field(init=False, default=False)  # that there is no room for it
    _running: ProcessSet | None = field(init=False, default=None)
    _tails: dict[str, LogTail] = field(init=False, default_factory=dict)  # of the newest life

    def end(self) -> None:
        """Let the processes drain; `run` returns when they are gone."""
        self._ending.set()

    @property
    def is_ending(self) -> bool:
        return self._ending.is_set()

    def replace(self, name: str, why: str) -> None:
        """Kill a process that lives and does not work; what comes then is as after a death."""
        if self._running is not None:
            self._running.kill(name, why)

    async def run(self) -> None:
        """Until it has ended well, or was told to.

        Raises:
            ProcessFailed: it died and is not started again.
            NoPlace: no machine had room for it in time.
        """
        try:
            while not self._ending.is_set():
                cause = await self._life()
                if self._ending.is_set() or cause is None:
                    continue
                if await self.is_done(cause):
                    return
                if not self._ending.is_set():
                    await self._pause(cause)
        finally:
            for name in self.names:  # it may have waited for a place, or for its next life
                self.table.set(name, "ended", pid=0)

    async def _life(self) -> End | None:
        """The end of one life. None means that there is no room yet and the run goes on."""
        try:
            logs = {name: self.log_folder / f"{name}.log" for name in self.names}
            self._tails = {name: LogTail(log) for name, log in logs.items()}
            life = self.make_set(self._ending)
            return await life.live(
                self.make_requests, self.place_timeout_s, lambda: self._note_up(life)
            )
        except PlaceLost:
            return End(self.names[0], None)
        except NoPlace as error:
            if not (self.may_wait or self.is_known()):
                raise
            if not self._has_told:  # it looks again and again, maybe for hours
                self._has_told = True
                self.report(f"{error}. Still looking for one")
            return None
        finally:
            self._running = None
            self.is_up.clear()

    def _note_up(self, life: ProcessSet) -> None:
        self._running = life
        self._has_told = False
        self.is_up.set()
        self.on_up()

    async def _pause(self, cause: End) -> None:
        """Wait before the next life. Raises ProcessFailed when there is to be none."""
        failed = f"{cause.name} {cause.why}"
        is_hopeless = cause.code == FINAL_EXIT_CODE or (
            cause.code is not None and cause.code > 0 and not self.is_known()
        )
        pause_s = None if is_hopeless else self.budget.pause_before_next(time.monotonic())
        if pause_s is None:
            kind = ProcessRefused if cause.code == FINAL_EXIT_CODE else ProcessFailed
            raise kind(self._last_words(cause, failed, is_hopeless))
        for name in self.names:
            why = failed if len(self.names) > 1 else cause.why
            self.table.note_restart(name, why)
        count = f"{self.budget.used(time.monotonic())} of {self.budget.max_restarts}"
        whom = "" if len(self.names) == 1 else f" all {len(self.names)} of them"
        self.report(f"{failed}; starting{whom} again in {pause_s:g} s (restart {count})")
        await set_or_after(self._ending, pause_s)

    def _last_words(self, cause: End, failed: str, is_hopeless: bool) -> str:
        log = self.log_folder / f"{cause.name}.log"
        spent = (
            ""
            if is_hopeless
            else f" {self.budget.max_restarts} restarts are used up (cluster.max_restarts)."
        )
        words = last_lines(self._tails[cause.name])
        reason = reason_in(words) if cause.code is not None and cause.code > 0 else None
        why = failed if reason is None else f"{failed}: {reason}"
        return f"{why}.{spent} The end of {log}:\n{words}"


def reason_in(words: str) -> str | None:
    """What a process of ours said last of its failure. None means nothing of use."""
    found = [match[1] for line in words.splitlines() if (match := _REASON.search(line))]
    return found[-1].rstrip(".") if found else None


def last_lines(log: LogTail, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, indented; a remark when there are none."""
    try:
        newest = log.lines()[-lines:]
    except OSError as error:
        return f"  (cannot be read here: {error.strerror})"
    return "\n".join(f"  {line}" for line in newest) or "  (it wrote nothing)"
