"""What workers import: one coroutine a request, safe to send again until it is answered."""

import asyncio
import hashlib
import logging
import os
import random
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq
import zmq.asyncio
from pydantic import BaseModel

from broker import protocol as p
from common.errors import BrokerUnavailable, ProtocolError
from common.lifecycle import backoff
from common.types import Group, WeightUpdate
from common.wire import MAX_FRAME_BYTES, PROTOCOL_VERSION, decode, encode

logger = logging.getLogger(__name__)
_Reply = TypeVar("_Reply", bound=BaseModel)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_MAX_ABANDONED = 1024


class RequestRefused(ProtocolError):
    """The broker understood a request and turned it down. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class BrokerClient:
    """One life of one member. Enter the context to connect and say hello.

    Requests may run at once. One that is not answered in `request_timeout_s` (beyond its own
    `wait_s`) is sent again as it was, up to `tries` times in all. A member that the broker has
    counted as gone says hello again by itself; one whose name was taken is refused for good.
    """

    def __init__(
        self,
        address: str,
        member_id: str,
        role: p.Role,
        *,
        details: dict[str, str] | None = None,
        request_timeout_s: float = 10.0,
        tries: int = 6,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self.welcome: p.Welcome
        self._address = address
        self._member_id = member_id
        self._role = role
        self._details = {"pid": str(os.getpid()), **(details or {})}
        self._timeout_s = request_timeout_s
        self._tries = tries
        self._max_frame_bytes = max_frame_bytes
        self._incarnation = secrets.randbits(63)
        self._next_id = secrets.randbits(63)
        self._rng = random.Random(self._incarnation)  # jitter only
        self._answers: dict[bytes, asyncio.Future[BaseModel]] = {}
        self._abandoned: set[bytes] = set()  # lease requests that nobody waits for any more

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes)
        self._socket.connect(self._address)
        self._receiver = asyncio.create_task(self._receive(), name="broker-replies")
        try:
            await self._say_hello()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self._receiver.cancel()
        await asyncio.gather(self._receiver, return_exceptions=True)
        self._socket.close(linger=0)
        self._context.term()

    # ---- rollout ---------------------------------------------------------------------------------
    async def lease(self, max_groups: int, serving_version: int, wait_s: float) -> p.Leases:
        """Work, once there is some; empty when `wait_s` runs out.

        When the caller is cancelled, leases that still arrive are given back.
        """
        request = p.LeaseRequest(
            **self._me(), max_groups=max_groups, serving_version=serving_version, wait_s=wait_s
        )
        return await self._request(request, p.Leases, wait_s)

    async def submit(self, group: Group) -> p.Verdict:
        reply = await self._request(p.SubmitGroup(**self._me(), group=group), p.Submitted)
        return reply.verdict

    async def give_back(
        self, group_id: str, attempt: int, reason: str, broken_sample: bool
    ) -> p.Done:
        return await self._request(
            self._give_back_request(group_id, attempt, reason, broken_sample), p.Done
        )

    async def watch_weights(
        self, seen_version: int, seen_attempt: int, wait_s: float
    ) -> p.Announcement:
        request = p.WatchWeights(
            **self._me(), seen_version=seen_version, seen_attempt=seen_attempt, wait_s=wait_s
        )
        return await self._request(request, p.Announcement, wait_s)

    async def ack_weights(self, version: int) -> p.Done:
        return await self._request(p.AckWeights(**self._me(), version=version), p.Done)

    # ---- learner ---------------------------------------------------------------------------------
    async def take(self, step: int, wait_s: float) -> p.Batch:
        request = p.TakeBatch(**self._me(), step=step, wait_s=wait_s)
        return await self._request(request, p.Batch, wait_s)

    async def ack(self, step: int, refused: dict[str, str] | None = None) -> p.Done:
        return await self._request(
            p.AckBatch(**self._me(), step=step, refused=refused or {}), p.Done
        )

    async def announce(self, update: WeightUpdate) -> p.Done:
        return await self._request(p.AnnounceWeights(**self._me(), update=update), p.Done)

    async def watch_members(self, at_least: int, wait_s: float) -> p.Members:
        request = p.WatchMembers(**self._me(), at_least=at_least, wait_s=wait_s)
        return await self._request(request, p.Members, wait_s)

    async def finish(self, reason: str) -> p.Done:
        return await self._request(p.Finish(**self._me(), reason=reason[:500]), p.Done)

    # ---- everybody -------------------------------------------------------------------------------
    async def heartbeat(self, gauges: dict[str, float]) -> p.Done:
        return await self._request(p.Heartbeat(**self._me(), gauges=gauges), p.Done)

    async def status(self) -> p.Status:
        return await self._request(p.GetStatus(), p.Status)

    async def image(self, sha256: str) -> bytes:
        """The encoded file of an image of the dataset, verified."""
        reply = await self._request(p.GetImage(sha256=sha256), p.ImageBytes)
        if hashlib.sha256(reply.content).hexdigest() != sha256:
            raise ProtocolError(f"the broker sent other bytes than those of image {sha256}")
        return reply.content

    async def goodbye(self) -> None:
        """Leave in good order: leases go back, and nobody waits for this member."""
        await self._request(p.Goodbye(**self._me()), p.Done)

    # ---- requests and replies --------------------------------------------------------------------
    def _me(self) -> dict[str, Any]:
        return {"member_id": self._member_id, "incarnation": self._incarnation}

    def _give_back_request(
        self, group_id: str, attempt: int, reason: str, broken_sample: bool
    ) -> p.GiveBack:
        return p.GiveBack(
            **self._me(),
            group_id=group_id,
            attempt=attempt,
            reason=reason[:500],
            broken_sample=broken_sample,
        )

    async def _say_hello(self) -> None:
        hello = p.Hello(**self._me(), role=self._role, details=self._details)
        self.welcome = _expect(await self._exchange(hello, 0), p.Welcome)
        if self.welcome.protocol_version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the broker speaks protocol {self.welcome.protocol_version}, this process "
                f"{PROTOCOL_VERSION}. Fix: install the same version everywhere"
            )

    async def _request(self, request: BaseModel, kind: type[_Reply], wait_s: float = 0.0) -> _Reply:
        reply = await self._exchange(request, wait_s)
        if isinstance(reply, p.Refused) and reply.code == "unknown_member":
            logger.warning("the broker had given %s up; saying hello again", self._member_id)
            await self._say_hello()
            reply = await self._exchange(request, wait_s)
        return _expect(reply, kind)

    async def _exchange(self, request: BaseModel, wait_s: float) -> BaseModel:
        """Send until answered. The request id stays the same, so that the broker can tell."""
        frame = encode(request)
        if len(frame) > self._max_frame_bytes:
            raise ProtocolError(
                f"{type(request).__name__} of {len(frame)} bytes is over the limit of "
                f"{self._max_frame_bytes}. Fix: raise broker.max_frame_mib"
            )
        request_id = self._new_id()
        answer: asyncio.Future[BaseModel] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        pauses = backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._rng)
        try:
            for attempt in range(1, self._tries + 1):
                if await self._try(request_id, frame, answer, wait_s + self._timeout_s):
                    return answer.result()
                name = type(request).__name__
                logger.warning("no answer to %s (try %d of %d)", name, attempt, self._tries)
                await asyncio.wait((answer,), timeout=next(pauses))
        except asyncio.CancelledError:
            if isinstance(request, p.LeaseRequest):
                self._abandon(request_id, answer)
            raise
        finally:
            del self._answers[request_id]
        raise BrokerUnavailable(
            f"no answer from the broker at {self._address} to {type(request).__name__} after "
            f"{self._tries} tries of {wait_s + self._timeout_s:.1f} s"
        )

    async def _try(
        self, request_id: bytes, frame: bytes, answer: asyncio.Future[BaseModel], timeout_s: float
    ) -> bool:
        """Send once; True when the answer is there, also one to an earlier try."""
        try:
            async with asyncio.timeout(timeout_s):
                if not answer.done():
                    await self._socket.send_multipart([request_id, frame])
                await asyncio.wait((answer, self._receiver), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return False
        if not answer.done():  # then the receiver has ended
            raise BrokerUnavailable("this broker client is closed")
        return True

    def _new_id(self) -> bytes:
        self._next_id = (self._next_id + 1) % 2**64
        return self._next_id.to_bytes(8)

    async def _receive(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            if len(parts) != 2:
                logger.warning("a reply of %d parts was left out", len(parts))
                continue
            request_id, frame = parts
            answer = self._answers.get(request_id)
            is_awaited = answer is not None and not answer.done()
            if not is_awaited and request_id not in self._abandoned:
                continue  # answered before: this is the reply to a request sent twice
            try:
                reply = decode(frame, p.REPLIES, max_bytes=self._max_frame_bytes)
            except ProtocolError as error:
                reply = p.Refused(code="malformed", message=f"reply of the broker: {error}")
            if answer is not None and is_awaited:
                answer.set_result(reply)
            else:
                self._abandoned.discard(request_id)
                self._return_leases(reply)

    def _abandon(self, request_id: bytes, answer: asyncio.Future[BaseModel]) -> None:
        """The caller of `lease` was cancelled: nobody will use what comes, or has just come."""
        if answer.done():
            self._return_leases(answer.result())
        elif len(self._abandoned) < _MAX_ABANDONED:  # beyond that, leases lapse
            self._abandoned.add(request_id)

    def _return_leases(self, reply: BaseModel) -> None:
        if not isinstance(reply, p.Leases):
            return
        for lease in reply.leases:
            request = self._give_back_request(
                lease.group_id, lease.attempt, "arrived after its request was cancelled", False
            )
            self._socket.send_multipart([self._new_id(), encode(request)])  # reply not awaited


async def heartbeat_forever(
    broker: BrokerClient,
    gauges: Callable[[], dict[str, float]],
    interval_s: float,
    finished: asyncio.Event,
) -> None:
    """Tell the broker every `interval_s` that this process lives; sets `finished` at the end.

    Runs until cancelled: a member that drains is alive still.
    """
    while True:
        done = await broker.heartbeat(gauges())
        if done.finished:
            finished.set()
        await asyncio.sleep(interval_s)


def _expect(reply: BaseModel, kind: type[_Reply]) -> _Reply:
    if isinstance(reply, p.Refused):
        raise RequestRefused(reply.code, reply.message)
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected {kind.__name__}, the broker sent {type(reply).__name__}")
    return reply
