"""Requests of one client, each sent until it is answered: ids, time-outs, tries, late replies."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from broker import protocol as p
from broker.net.transport import Link
from common.errors import BrokerUnavailable, ProtocolError
from common.lifecycle import backoff
from common.types import Record
from common.wire import decode, encode, encode_message

logger = logging.getLogger(__name__)
PAUSES_S = (0.1, 5.0)  # the first between two tries, and the longest
_MAX_ABANDONED = 1024
_NOT_LET_IN = (
    ". Fix: see that it runs there, and that its broker.keys and this process's were made together"
)
_ASK_AGAIN = ("store_failure", "over_capacity")  # refusals that end by themselves


class MessageTooLarge(ProtocolError):
    """The message cannot be sent; nothing is wrong with the connection."""


def _closed() -> BrokerUnavailable:
    return BrokerUnavailable("this broker client is closed")


def _future() -> asyncio.Future[Record]:
    return asyncio.get_running_loop().create_future()


@dataclass
class _Sent:
    """A request that waits for its reply. Its id stays the same, so that the broker can tell."""

    request_id: bytes
    request: p.Request[Record]
    frames: list[bytes]
    answer: asyncio.Future[Record] = field(default_factory=_future)
    num_unanswered: int = 0  # tries that have timed out

    @property
    def name(self) -> str:
        return type(self.request).__name__

    @property
    def wait_s(self) -> float:
        """Seconds that the broker may hold it."""
        return self.request.wait_s if isinstance(self.request, p.HeldRequest) else 0.0


class Exchange:
    """Asks the broker over one link. Requests may be asked at once.

    Args:
        timeout_s: seconds until a request is sent again, beyond its own `wait_s`.
        tries: how often one request is sent in all when no answer comes.
        patience_s: seconds for which a broker is asked again that has no room, or whose disk is
            full.
        max_frame_bytes: larger messages are not sent.
        rng: draws request ids and jitter.
    """

    def __init__(
        self,
        link: Link,
        address: str,
        *,
        timeout_s: float,
        tries: int,
        patience_s: float,
        max_frame_bytes: int,
        rng: random.Random,
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._link = link
        self._address = address
        self._timeout_s = timeout_s
        self._tries = tries
        self._patience_s = patience_s
        self._rng = rng
        self._next_id = rng.getrandbits(63)
        self._sent: dict[bytes, _Sent] = {}
        self._abandoned: dict[bytes, Callable[[Record], None]] = {}  # by request id

    def open(self) -> None:
        self._link.open(self._address, self.max_frame_bytes)
        self._receiver = asyncio.create_task(self._receive(), name="broker-replies")
        self._receiver.add_done_callback(self._give_up)

    async def close(self) -> None:
        self._receiver.cancel()
        await asyncio.gather(self._receiver, return_exceptions=True)
        self._link.close()

    async def ask(
        self, request: p.Request[Record], unclaimed: Callable[[Record], None] | None = None
    ) -> Record:
        """Send until answered.

        Args:
            unclaimed: gets the reply if the caller is cancelled before it has it.

        Raises:
            MessageTooLarge: the broker would not take it.
            BrokerUnavailable: no answer to any try, or the exchange was closed.
        """
        if self._receiver.done():
            raise _closed()
        sent = _Sent(self._new_id(), request, self._frames_of(request))
        self._sent[sent.request_id] = sent
        try:
            return await self._until_settled(sent)
        except asyncio.CancelledError:
            if unclaimed is not None:
                self._abandon(sent, unclaimed)
            raise
        finally:
            del self._sent[sent.request_id]

    def post(self, request: p.Request[Record]) -> None:
        """Send once, and wait neither for room nor for the answer."""
        self._link.post([self._new_id(), encode(request)])

    async def _until_settled(self, sent: _Sent) -> Record:
        """Ask again while the reply is a refusal that ends by itself."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        pauses = backoff(*PAUSES_S, self._rng)
        while True:
            reply = await self._until_answered(sent, pauses)
            if not ends_by_itself(reply) or loop.time() > give_up_at:
                return reply
            logger.warning("%s: %s", sent.name, reply)
            sent.answer = _future()
            await asyncio.wait((sent.answer,), timeout=next(pauses))

    async def _until_answered(self, sent: _Sent, pauses: Iterator[float]) -> Record:
        """Send again while no reply comes."""
        while sent.num_unanswered < self._tries:
            if await self._try(sent):
                return sent.answer.result()
            sent.num_unanswered += 1
            logger.warning(
                "no answer to %s (try %d of %d)", sent.name, sent.num_unanswered, self._tries
            )
            await asyncio.wait((sent.answer,), timeout=next(pauses))
        raise BrokerUnavailable(
            f"no answer from the broker at {self._address} to {sent.name} after "
            f"{self._tries} tries of {sent.wait_s + self._timeout_s:.1f} s"
            + (_NOT_LET_IN if isinstance(sent.request, p.Hello) else "")
        )

    async def _try(self, sent: _Sent) -> bool:
        """Send once; True when the answer is there, also one to an earlier try."""
        try:
            async with asyncio.timeout(sent.wait_s + self._timeout_s):
                if not sent.answer.done():
                    await self._link.send([sent.request_id, *sent.frames])
                await asyncio.shield(sent.answer)
        except TimeoutError:
            return False
        return True

    def _give_up(self, receiver: asyncio.Task[None]) -> None:
        """No reply is received any more."""
        for sent in self._sent.values():
            if not sent.answer.done():
                sent.answer.set_exception(_closed())

    def _frames_of(self, request: p.Request[Record]) -> list[bytes]:
        frames = encode_message(request)
        num_bytes = sum(map(len, frames))
        if num_bytes > self.max_frame_bytes:
            raise MessageTooLarge(
                f"{type(request).__name__} of {num_bytes} bytes is over the limit of "
                f"{self.max_frame_bytes}. Fix: raise broker.max_frame_mib"
            )
        return frames

    def _new_id(self) -> bytes:
        self._next_id = (self._next_id + 1) % 2**64
        return self._next_id.to_bytes(8)

    async def _receive(self) -> None:
        while True:
            parts = await self._link.receive()
            if len(parts) < 2:
                logger.warning("a reply of %d parts was left out", len(parts))
                continue
            request_id, *frames = parts
            sent = self._sent.get(request_id)
            if sent is not None and not sent.answer.done():
                sent.answer.set_result(self._read(frames))
            elif request_id in self._abandoned:
                self._abandoned.pop(request_id)(self._read(frames))
            # any other was answered before: this is the reply to a request sent twice

    def _read(self, frames: list[bytes]) -> Record:
        try:
            reply = decode(frames[0], p.REPLIES, *frames[1:2], max_bytes=self.max_frame_bytes)
        except ProtocolError as error:
            return p.Refused(code="malformed", message=f"reply of the broker: {error}")
        assert isinstance(reply, Record)
        return reply

    def _abandon(self, sent: _Sent, unclaimed: Callable[[Record], None]) -> None:
        """The caller was cancelled: see to what still comes, or has just come."""
        if sent.answer.done():
            if sent.answer.exception() is None:
                unclaimed(sent.answer.result())
        elif len(self._abandoned) < _MAX_ABANDONED:  # beyond that, leases lapse
            self._abandoned[sent.request_id] = unclaimed


def ends_by_itself(reply: Record) -> bool:
    """Whether a refusal is one of those after which the same request may be granted later."""
    return isinstance(reply, p.Refused) and reply.code in _ASK_AGAIN
