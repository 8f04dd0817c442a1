"""Groups that are handed in while others are on their way go to the broker in one message.

A message costs its ends some 0.2 ms, whatever it holds. Two at a time are under way, so that the
broker has work while the next groups are made; what is submitted meanwhile waits for an answer, and
goes with the next. A group that comes alone waits for none.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from broker.protocol import Refused, Verdict
from common.errors import BrokerUnavailable, ProtocolError

Outcome = Verdict | Refused
Send = Callable[[tuple[bytes, ...]], Awaitable[tuple[Outcome, ...]]]
_Waiting = tuple[bytes, asyncio.Future[Outcome]]
UNDER_WAY = 2  # messages
MOST_GROUPS = 8  # in a message: with more, what the message itself costs is little beside them


class Bundler:
    """Use it within one event loop, and close it in the end.

    Args:
        send: sends record batches in one message; returns what became of each.
        max_bytes: tells how large a message may be now, unless a single group is larger.
    """

    def __init__(self, send: Send, max_bytes: Callable[[], int]) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def submit(self, batch: bytes) -> Outcome:
        """What became of a group. Raises as `send` did for the message that it went with.

        Raises:
            BrokerUnavailable: it is closed.
        """
        if self._is_closed:
            raise BrokerUnavailable("this broker client is closed")
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, outcome))
        # One that has just ended leaves the set a turn of the loop later.
        if sum(not sender.done() for sender in self._senders) < UNDER_WAY:
            sender = asyncio.create_task(self._send_all(), name="submit")
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await outcome

    async def close(self) -> None:
        """Give up what is under way, and refuse what comes; waiting submitters are cancelled."""
        self._is_closed = True
        senders = list(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        while self._waiting:  # also of a sender that was cancelled before it began
            self._waiting.popleft()[1].cancel()

    async def _send_all(self) -> None:
        bundle: list[_Waiting] = []
        try:
            while self._waiting:
                bundle = self._next_bundle()
                if bundle:
                    await self._carry_out(bundle)
        finally:  # nothing is left of a bundle unless this task is cancelled
            for _, outcome in bundle:
                outcome.cancel()

    def _next_bundle(self) -> list[_Waiting]:
        """The next groups that fit into a message; none whose submitter has been cancelled."""
        bundle: list[_Waiting] = []
        left = self._max_bytes()
        while self._waiting and len(bundle) < MOST_GROUPS:
            batch, outcome = self._waiting[0]
            if not outcome.done():
                left -= len(batch)
                if left < 0 and bundle:
                    break
                bundle.append((batch, outcome))
            self._waiting.popleft()
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
