"""Processes that live and die together: all ranks of the learner, or one process by itself.

One life of a crew: places for all > commands made for these places > started > the first end that
matters > the others ended > places given back. One that lives and is of no use is killed.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from common.errors import FINAL_EXIT_CODE
from deploy.cluster.roles import Seat
from deploy.supervision.process_actor import Order
from deploy.supervision.process_table import ProcessTable

logger = logging.getLogger(__name__)
_KILL_GRACE_S = 5.0
_ORPHAN_GRACE_S = 3.0  # for those that have lost one of their crew: they can only fail


class Process(Protocol):
    name: str

    async def seat(self, timeout_s: float) -> Seat: ...
    async def start(self, order: Order) -> int: ...
    async def wait(self) -> int | None: ...
    async def signal(self, number: int) -> None: ...
    def release(self) -> None: ...


Orders = Callable[[Sequence[Seat]], Sequence[Order]]


class End(NamedTuple):
    """How the life of a crew ended: by the end of this process."""

    name: str
    code: int | None  # None: lost together with its machine
    cause: str = ""  # why we have ended it; empty: we have not

    @property
    def is_good(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        return self.cause or describe(self.code)


class Crew:
    """One life.

    Args:
        processes: placed, not started yet.
        ending: set when the crew is to end in good order.
        drain_s: that each may then take.
        at_once: set when nothing may drain any more.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        table: ProcessTable,
        ending: asyncio.Event,
        drain_s: float,
        at_once: asyncio.Event,
    ) -> None:
        self._processes = processes
        self._table = table
        self._ending = ending
        self._drain_s = drain_s
        self._at_once = at_once
        self._condemned: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._exits: list[asyncio.Task[End]] = []

    async def live(
        self, orders: Orders, seat_timeout_s: float, on_start: Callable[[], None]
    ) -> End:
        """From places to the end of all; the end that caused it. `ending` makes it a good one.

        Raises:
            NoPlace: there was no room.
            PlaceLost: a machine was lost before the start.
            VisionOpdError: a process cannot be started.
        """
        try:
            seats = await self._seats(seat_timeout_s)
            if seats is None or not await self._start(orders(seats), seats):
                return End(self._processes[0].name, 0)
            on_start()
            return await self._until_the_end()
        finally:
            for process in self._processes:
                process.release()
            for task in self._exits:
                task.cancel()

    def kill(self, name: str, why: str) -> None:
        """End a process that lives and does not work; its end is a bad one, for this reason.

        What is said of it a second time changes nothing.
        """
        if not self._condemned.done():
            self._condemned.set_result(End(name, -signal.SIGKILL, why))

    async def _seats(self, timeout_s: float) -> list[Seat] | None:
        """None when the crew is to end before it has begun."""
        for process in self._processes:
            self._table.set(process.name, "waiting for a place", node="", pid=0)
        seats = asyncio.gather(*(process.seat(timeout_s) for process in self._processes))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await first_done(seats, ending)
            return list(await seats) if seats.done() else None
        finally:
            await _drop(seats, ending)

    async def _start(self, orders: Sequence[Order], seats: Sequence[Seat]) -> bool:
        """All at once: ranks wait for each other. False when the crew is to end meanwhile."""
        starts = asyncio.gather(
            *(
                self._start_one(process, order, seat)
                for process, order, seat in zip(self._processes, orders, seats, strict=True)
            )
        )
        ending = asyncio.create_task(self._ending.wait())
        try:
            await first_done(starts, ending)
            if not starts.done():  # making an environment takes minutes, which nobody waits for
                await asyncio.gather(*(each.signal(signal.SIGKILL) for each in self._processes))
                return False
            await starts
        finally:
            await _drop(starts, ending)
        for process in self._processes:
            self._exits.append(asyncio.create_task(_end_of(process), name=process.name))
        return True

    async def _start_one(self, process: Process, order: Order, seat: Seat) -> None:
        self._table.set(process.name, "starting", node=seat.node)
        pid = await process.start(order)
        logger.info("%s started on %s, pid %d", process.name, seat.node, pid)
        self._table.set(process.name, "up", pid=pid)

    async def _until_the_end(self) -> End:
        ending = asyncio.create_task(self._ending.wait())
        try:
            cause = await self._first_end(ending)
        finally:
            ending.cancel()
        if cause is None:  # it was told to end
            await self._end_all(self._drain_s)
            return End(self._processes[0].name, 0)
        if cause.is_good:
            # The others follow by themselves.
            await until_done(self._exits, self._drain_s, self._at_once)
            cause = next((end for end in self._ends() if not end.is_good), cause)
        await self._end_all(_ORPHAN_GRACE_S)
        # What is final for one of them is final for all, whoever was the first to go.
        return next((end for end in self._ends() if end.code == FINAL_EXIT_CODE), cause)

    def _ends(self) -> list[End]:
        return [task.result() for task in self._exits if task.done()]

    async def _first_end(self, ending: "asyncio.Task[bool]") -> End | None:
        await first_done(*self._exits, ending, self._condemned)
        ends = self._ends()
        if not ends and not ending.done():
            return self._condemned.result()  # the others end as after a death; so does it
        bad = [end for end in ends if not end.is_good]
        return next(iter(bad or ends), None)

    async def _end_all(self, patience_s: float) -> None:
        for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _KILL_GRACE_S)):
            running = [
                (process, task)
                for process, task in zip(self._processes, self._exits, strict=True)
                if not task.done()
            ]
            if not running:
                break
            for process, _ in running:
                self._table.set(process.name, "ending")
            await asyncio.gather(*(process.signal(number) for process, _ in running))
            tasks = [task for _, task in running]
            if number == signal.SIGTERM:
                await until_done(tasks, limit_s, self._at_once)
            else:
                await asyncio.wait(tasks, timeout=limit_s)
        for process in self._processes:
            self._table.set(process.name, "ended", pid=0)


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
    """Nobody waits for them any more; what they end with is not told."""
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
