"""Groups that are handed in while others are on their way go to the broker in one message.

A message costs its ends some 0.2 ms, whatever it holds. One at a time is under way; what is
submitted meanwhile waits for its answer, and goes with the next. A group that comes alone waits for
none.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from broker.protocol import MAX_TOGETHER, Refused, Verdict
from common.errors import ProtocolError

Outcome = Verdict | Refused
Send = Callable[[tuple[bytes, ...]], Awaitable[tuple[Outcome, ...]]]
_Waiting = tuple[bytes, asyncio.Future[Outcome]]


class Bundler:
    """Use it within one event loop, and close it in the end.

    Args:
        send: sends record batches in one message; returns what became of each.
        max_bytes: of one message, unless a single group is larger.
    """

    def __init__(self, send: Send, max_bytes: int) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, batch: bytes) -> Outcome:
        """What became of a group. Raises as `send` did for the message that it went with."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, outcome))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="submit")
        return await outcome

    async def close(self) -> None:
        """Give up what is under way; whoever waits for it is cancelled."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send_all(self) -> None:
        bundle: list[_Waiting] = []
        try:
            while self._waiting:
                bundle = self._next_bundle()
                await self._carry_out(bundle)
        finally:  # nothing is left unless this task is cancelled
            for _, outcome in (*bundle, *self._waiting):
                outcome.cancel()
            self._waiting.clear()

    def _next_bundle(self) -> list[_Waiting]:
        bundle = [self._waiting.popleft()]
        left = self._max_bytes - len(bundle[0][0])
        while self._waiting and len(bundle) < MAX_TOGETHER:
            left -= len(self._waiting[0][0])
            if left < 0:
                break
            bundle.append(self._waiting.popleft())
        return bundle

    async def _carry_out(self, bundle: list[_Waiting]) -> None:
        try:
            found = await self._send(tuple(batch for batch, _ in bundle))
            if len(found) != len(bundle):
                raise ProtocolError(f"{len(found)} outcomes of {len(bundle)} groups")
        except Exception as error:  # it is for those who submitted
            for _, outcome in bundle:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        for (_, outcome), value in zip(bundle, found, strict=True):
            if not outcome.done():  # its submitter may have been cancelled
                outcome.set_result(value)
