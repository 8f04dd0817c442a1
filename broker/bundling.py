"""Groups that are handed in together go to the broker in one message.

A message costs its ends some 0.2 ms, whatever it holds. What is submitted within one turn of the
event loop is sent at the turn's end; a group that comes alone waits for none.
"""

import asyncio
from collections.abc import Awaitable, Callable

from broker.protocol import MAX_TOGETHER, Refused, Verdict
from common.errors import ProtocolError

Outcome = Verdict | Refused
Send = Callable[[tuple[bytes, ...]], Awaitable[tuple[Outcome, ...]]]
_Waiting = tuple[bytes, asyncio.Future[Outcome]]


class Bundler:
    """Use it within one event loop; `close` cancels what is under way.

    Args:
        send: sends record batches in one message; returns what became of each.
        max_bytes: of one message, unless a single group is larger.
    """

    def __init__(self, send: Send, max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, batch: bytes) -> Outcome:
        """What became of a group. Raises as `send` did for the message that it went with."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send_waiting)
        self._waiting.append((batch, outcome))
        return await outcome

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        bundle: list[_Waiting] = []
        num_bytes = 0
        for batch, outcome in waiting:
            num_bytes += len(batch)
            if bundle and (num_bytes > self._max_bytes or len(bundle) == MAX_TOGETHER):
                self._begin(bundle)
                bundle, num_bytes = [], len(batch)
            bundle.append((batch, outcome))
        self._begin(bundle)

    def _begin(self, bundle: list[_Waiting]) -> None:
        task = asyncio.create_task(self._carry_out(bundle), name="submit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, bundle: list[_Waiting]) -> None:
        awaited = [outcome for _, outcome in bundle]
        try:
            found = await self._send(tuple(batch for batch, _ in bundle))
            if len(found) != len(bundle):
                raise ProtocolError(f"{len(found)} outcomes of {len(bundle)} groups")
        except asyncio.CancelledError:
            for outcome in awaited:
                outcome.cancel()
            raise
        except Exception as error:  # it is for those who submitted
            for outcome in awaited:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        for outcome, value in zip(awaited, found, strict=True):
            if not outcome.done():  # its submitter may have been cancelled
                outcome.set_result(value)
