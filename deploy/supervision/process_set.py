"""Processes that live and die together: all ranks of the learner, or one process by itself.

One life: places for all > commands made for these places > started > the first end that matters >
the others ended > places given back. One that runs and does not work is killed.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from common.errors import FINAL_EXIT_CODE
from deploy.cluster.process_specs import Location
from deploy.supervision.process_actor import StartRequest
from deploy.supervision.process_table import ProcessTable

logger = logging.getLogger(__name__)
_KILL_GRACE_S = 5.0
_ORPHAN_GRACE_S = 3.0  # for those that have lost one of the others: they can only fail


class Process(Protocol):
    name: str

    async def location(self, timeout_s: float) -> Location: ...
    async def start(self, request: StartRequest) -> int: ...
    async def wait(self) -> int | None: ...
    async def signal(self, number: int) -> None: ...
    def release(self) -> None: ...


MakeRequests = Callable[[Sequence[Location]], Sequence[StartRequest]]


class End(NamedTuple):
    """The end of the process that ended the life of its set."""

    name: str
    code: int | None  # None if it was lost together with its machine
    cause: str = ""  # why we have ended it; empty: we have not

    @property
    def is_good(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        return self.cause or describe(self.code)


@dataclass(eq=False)
class ProcessSet:
    """One life of processes that live and die together. Made inside a running event loop."""

    processes: Sequence[Process]  # placed, not started yet
    table: ProcessTable
    ending: asyncio.Event  # set when the processes are to end in good order
    drain_s: float  # that each may then take
    at_once: asyncio.Event  # set when nothing may drain any more
    _killed: "asyncio.Future[End]" = field(init=False, default_factory=asyncio.Future)
    _exits: "list[asyncio.Task[End]]" = field(init=False, default_factory=list)

    async def live(
        self, requests: MakeRequests, location_timeout_s: float, on_start: Callable[[], None]
    ) -> End:
        """From places to the end of all; the end that caused it. `ending` makes it a good one.

        Raises:
            NoPlace: there was no room.
            PlaceLost: a machine was lost before the start.
            VisionOpdError: a process cannot be started.
        """
        try:
            locations = await self._locations(location_timeout_s)
            if locations is None or not await self._start(requests(locations), locations):
                return End(self.processes[0].name, 0)
            on_start()
            return await self._until_the_end()
        finally:
            for process in self.processes:
                process.release()
            for task in self._exits:
                task.cancel()

    def kill(self, name: str, why: str) -> None:
        """End a process that lives and does not work; its end is a bad one, for this reason.

        What is said of it a second time changes nothing.
        """
        if not self._killed.done():
            self._killed.set_result(End(name, -signal.SIGKILL, why))

    async def _locations(self, timeout_s: float) -> list[Location] | None:
        """None when the set is to end before it has begun."""
        for process in self.processes:
            self.table.set(process.name, "waiting for a place", node="", pid=0)
        found = asyncio.gather(*(process.location(timeout_s) for process in self.processes))
        try:
            return list(await found) if await self._done_before_ending(found) else None
        finally:
            await _drop(found)

    async def _start(self, requests: Sequence[StartRequest], locations: Sequence[Location]) -> bool:
        """All at once: ranks wait for each other. False when the set is to end meanwhile."""
        starts = asyncio.gather(
            *(
                self._start_one(process, request, location)
                for process, request, location in zip(
                    self.processes, requests, locations, strict=True
                )
            )
        )
        try:
            if not await self._done_before_ending(starts):  # an environment takes minutes to make
                await asyncio.gather(*(each.signal(signal.SIGKILL) for each in self.processes))
                return False
            await starts
        finally:
            await _drop(starts)
        for process in self.processes:
            self._exits.append(asyncio.create_task(_end_of(process), name=process.name))
        return True

    async def _done_before_ending(self, work: "asyncio.Future[Any]") -> bool:
        """Wait for the work. False when the set is to end first."""
        ending = asyncio.create_task(self.ending.wait())
        try:
            await first_done(work, ending)
        finally:
            await _drop(ending)
        return work.done()

    async def _start_one(self, process: Process, request: StartRequest, location: Location) -> None:
        self.table.set(process.name, "starting", node=location.node)
        pid = await process.start(request)
        logger.info("%s started on %s, pid %d", process.name, location.node, pid)
        self.table.set(process.name, "up", pid=pid)

    async def _until_the_end(self) -> End:
        ending = asyncio.create_task(self.ending.wait())
        try:
            cause = await self._first_end(ending)
        finally:
            ending.cancel()
        if cause is None:  # it was told to end
            await self._end_all(self.drain_s)
            return End(self.processes[0].name, 0)
        if cause.is_good:
            # The others follow by themselves.
            await until_done(self._exits, self.drain_s, self.at_once)
            cause = next((end for end in self._ends() if not end.is_good), cause)
        await self._end_all(_ORPHAN_GRACE_S)
        # What is final for one of them is final for all, also if another one ended first.
        return next((end for end in self._ends() if end.code == FINAL_EXIT_CODE), cause)

    def _ends(self) -> list[End]:
        return [task.result() for task in self._exits if task.done()]

    async def _first_end(self, ending: "asyncio.Task[bool]") -> End | None:
        await first_done(*self._exits, ending, self._killed)
        ends = self._ends()
        if not ends and not ending.done():
            return self._killed.result()  # the others end as after a death; so does it
        bad = [end for end in ends if not end.is_good]
        return next(iter(bad or ends), None)

    async def _end_all(self, patience_s: float) -> None:
        for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _KILL_GRACE_S)):
            running = [
                (process, task)
                for process, task in zip(self.processes, self._exits, strict=True)
                if not task.done()
            ]
            if not running:
                break
            for process, _ in running:
                self.table.set(process.name, "ending")
            await asyncio.gather(*(process.signal(number) for process, _ in running))
            tasks = [task for _, task in running]
            if number == signal.SIGTERM:
                await until_done(tasks, limit_s, self.at_once)
            else:
                await asyncio.wait(tasks, timeout=limit_s)
        for process in self.processes:
            self.table.set(process.name, "ended", pid=0)


async def first_done(*futures: "asyncio.Future[Any]") -> None:
    """Return as soon as one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def until_done(
    tasks: Sequence["asyncio.Task[Any]"], timeout_s: float, at_once: asyncio.Event
) -> None:
    """Return when all of them are done, at the latest after so long or when the event is set."""
    if not tasks:
        return
    cut = asyncio.create_task(at_once.wait())
    work = asyncio.ensure_future(asyncio.wait(tasks))
    try:
        await asyncio.wait([work, cut], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _drop(work, cut)


async def _drop(*futures: "asyncio.Future[Any]") -> None:
    """Cancel futures that nothing waits for any more; what they end with is not reported."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def _end_of(process: Process) -> End:
    end = End(process.name, await process.wait())
    logger.info("%s %s", end.name, end.why)
    return end


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "was lost together with its machine or Ray worker"
    if code == 0:
        return "ended"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"
