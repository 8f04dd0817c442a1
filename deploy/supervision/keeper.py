"""Keeps one crew alive: starts it again when it died, with growing pauses, up to a budget."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from common.errors import FINAL_EXIT_CODE, FinalError, VisionOpdError
from common.lifecycle import set_or_after
from common.log_files import identity, identity_of
from common.restart_budget import RestartBudget
from deploy.supervision.crew import Crew, End, Orders
from deploy.supervision.placement import NoPlace, PlaceLost
from deploy.supervision.process_table import ProcessTable

_TAIL_LINES = 20
_REASON = re.compile(r"(?: ERROR +\S+ \S+: |^  (?:config|data|broker) error: )(.+)$")
MakeCrew = Callable[[asyncio.Event], Crew]


class ProcessFailed(VisionOpdError):
    """A process ended before its time and is not started again."""


class ProcessRefused(ProcessFailed, FinalError):
    """It says that another start would end in the same way."""


class Keeper:
    """Keeps one crew alive, up to a budget of restarts.

    Args:
        names: of the crew's processes.
        make_crew: another life; it ends when the event is set.
        orders: what to run, once places are known.
        is_known: whether the crew has ever done its work in this run, so that starting it again may
            help.
        is_done: whether this end is the last one, as it should be.
        may_wait: whether the run goes on without it for as long as no machine has room.
        report: gets a line for people.
        on_up: called when all processes of a life run.
    """

    def __init__(
        self,
        names: list[str],
        make_crew: MakeCrew,
        orders: Orders,
        budget: RestartBudget,
        table: ProcessTable,
        log_folder: Path,
        *,
        place_timeout_s: float,
        is_known: Callable[[], bool],
        is_done: Callable[[End], Awaitable[bool]],
        may_wait: bool,
        report: Callable[[str], None],
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.names = names
        self._make_crew = make_crew
        self._orders = orders
        self._budget = budget
        self._table = table
        self._log_folder = log_folder
        self._place_timeout_s = place_timeout_s
        self._is_known = is_known
        self._is_done = is_done
        self._may_wait = may_wait
        self._report = report
        self._on_up = on_up
        self._ending = asyncio.Event()
        self._has_told = False  # that there is no room for it
        self._crew: Crew | None = None  # whose processes run
        self._tails: dict[str, LogTail] = {}  # of the life that began last
        self.is_up = asyncio.Event()  # all processes of the crew run

    def end(self) -> None:
        """Let the crew drain; `keep` returns when it is gone."""
        self._ending.set()

    @property
    def is_ending(self) -> bool:
        return self._ending.is_set()

    def replace(self, name: str, why: str) -> None:
        """Kill a process that lives and does not work; what comes then is as after a death."""
        if self._crew is not None:
            self._crew.kill(name, why)

    async def keep(self) -> None:
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
                if await self._is_done(cause):
                    return
                if not self._ending.is_set():
                    await self._pause(cause)
        finally:
            for name in self.names:  # it may have waited for a place, or for its next life
                self._table.set(name, "ended", pid=0)

    async def _life(self) -> End | None:
        """None: there is no room yet, and the run goes on without."""
        try:
            logs = {name: self._log_folder / f"{name}.log" for name in self.names}
            self._tails = {name: LogTail(log) for name, log in logs.items()}
            crew = self._make_crew(self._ending)
            return await crew.live(self._orders, self._place_timeout_s, lambda: self._note_up(crew))
        except PlaceLost:
            return End(self.names[0], None)
        except NoPlace as error:
            if not (self._may_wait or self._is_known()):
                raise
            if not self._has_told:  # it looks again and again, maybe for hours
                self._has_told = True
                self._report(f"{error}. Still looking for one")
            return None
        finally:
            self._crew = None
            self.is_up.clear()

    def _note_up(self, crew: Crew) -> None:
        self._crew = crew
        self._has_told = False
        self.is_up.set()
        self._on_up()

    async def _pause(self, cause: End) -> None:
        """Wait before the next life. Raises ProcessFailed when there is to be none."""
        failed = f"{cause.name} {cause.why}"
        is_hopeless = cause.code == FINAL_EXIT_CODE or (
            cause.code is not None and cause.code > 0 and not self._is_known()
        )
        pause_s = None if is_hopeless else self._budget.pause_before_next(time.monotonic())
        if pause_s is None:
            kind = ProcessRefused if cause.code == FINAL_EXIT_CODE else ProcessFailed
            raise kind(self._last_words(cause, failed, is_hopeless))
        for name in self.names:
            why = failed if len(self.names) > 1 else cause.why
            self._table.note_restart(name, why)
        count = f"{self._budget.used(time.monotonic())} of {self._budget.max_restarts}"
        whom = "" if len(self.names) == 1 else f" all {len(self.names)} of them"
        self._report(f"{failed}; starting{whom} again in {pause_s:g} s (restart {count})")
        await set_or_after(self._ending, pause_s)

    def _last_words(self, cause: End, failed: str, is_hopeless: bool) -> str:
        log = self._log_folder / f"{cause.name}.log"
        spent = (
            ""
            if is_hopeless
            else f" {self._budget.max_restarts} restarts are used up (cluster.max_restarts)."
        )
        words = self._tails[cause.name].last_lines()
        reason = reason_in(words) if cause.code is not None and cause.code > 0 else None
        why = failed if reason is None else f"{failed}: {reason}"
        return f"{why}.{spent} The end of {log}:\n{words}"


def reason_in(words: str) -> str | None:
    """What a process of ours said last of its own failure; None: nothing that could be told."""
    found = [match[1] for line in words.splitlines() if (match := _REASON.search(line))]
    return found[-1].rstrip(".") if found else None


class LogTail:
    """What is written to a log from now on: the words before are of another life, or run.

    Args:
        path: of the current file; it may be begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first = identity(path)
        self._start = path.stat().st_size if path.exists() else 0

    def last_lines(self, lines: int = _TAIL_LINES) -> str:
        """The last ones, indented; a remark when there are none."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._start if identity_of(file) == self._first else 0)
                text = file.read().decode("utf-8", errors="replace")
        except OSError as error:
            return f"  (cannot be read here: {error.strerror})"
        newest = text.strip("\n").splitlines()[-lines:]
        return "\n".join(f"  {line}" for line in newest) or "  (it wrote nothing)"
