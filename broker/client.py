"""What workers import: one coroutine a request, safe to send again until it is answered."""

import asyncio
import hashlib
import logging
import math
import os
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel

from broker import protocol as p
from broker.bundling import Bundler, Outcome
from broker.net.transport import Link, ZmqLink
from common import group_batch
from common.errors import BrokerUnavailable, ProtocolError, VersionMismatch
from common.group import Group
from common.lifecycle import backoff
from common.types import WeightUpdate
from common.wire import MAX_FRAME_BYTES, PROTOCOL_VERSION, decode, encode, encode_message

logger = logging.getLogger(__name__)
_Reply = TypeVar("_Reply", bound=BaseModel)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_MAX_ABANDONED = 1024
_NOT_LET_IN = (
    ". Fix: see that it runs there, and that its broker.keys and this process's were made together"
)
_SAME_CODE = "Fix: run the same checkout or image on every node"
_OF_ANOTHER_VERSION = ("version_mismatch", "malformed")  # what a hello may be refused for
_ASK_AGAIN = ("store_failure", "over_capacity")  # refusals that end by themselves


class RequestRefused(ProtocolError):
    """The broker understood a request and turned it down. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class MessageTooLarge(ProtocolError):
    """It cannot be sent; nothing is wrong with the line."""


class Taken(NamedTuple):
    """What a learner rank got of a step: all its groups, or none yet."""

    step: int
    groups: tuple[Group, ...]
    exhausted: bool  # there will be no such step


class BrokerClient:
    """One life of one member. Enter the context to connect and say hello.

    Requests may run at once. One that is not answered in `request_timeout_s` (beyond its own
    `wait_s`) is sent again as it was, up to `tries` times in all. A member that the broker has
    counted as gone says hello again by itself; one whose name was taken is refused for good. A
    broker that has no room, or whose disk is full, is asked again for `patience_s`.

    Args:
        ranks: that this rollout server has in a push group.
        versions: of this process, which the broker compares with others'; None: it does not.
        link: how it reaches the broker; None: ZeroMQ.
        rng: draws the incarnation, request ids and jitter; None: the system's entropy.
    """

    def __init__(
        self,
        address: str,
        member_id: str,
        role: p.Role,
        *,
        ranks: int = 1,
        details: dict[str, str] | None = None,
        versions: dict[str, str] | None = None,
        request_timeout_s: float = 10.0,
        tries: int = 6,
        patience_s: float = 600.0,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        link: Link | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.welcome: p.Welcome
        self._address = address
        self._member_id = member_id
        self._role = role
        self._ranks = ranks
        told = {"pid": str(os.getpid()), **(details or {})}
        self._details = {name: value[: p.DETAIL_LENGTH] for name, value in told.items()}
        self._versions = versions or {}
        self._timeout_s = request_timeout_s
        self._tries = tries
        self._patience_s = patience_s
        self._max_frame_bytes = max_frame_bytes
        self._link = ZmqLink() if link is None else link
        self._rng = random.SystemRandom() if rng is None else rng
        self._incarnation = self._rng.getrandbits(63)
        self._next_id = self._rng.getrandbits(63)
        self._answers: dict[bytes, asyncio.Future[BaseModel]] = {}
        self._takings: dict[int, int] = {}  # of the last batch taken, by rank
        self._abandoned: set[bytes] = set()  # lease requests that nobody waits for any more

    async def __aenter__(self) -> Self:
        self._link.open(self._address, self._max_frame_bytes)
        self._receiver = asyncio.create_task(self._receive(), name="broker-replies")
        self._bundler = Bundler(self._submit_all, self._max_frame_bytes // 2)
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
        await self._bundler.close()
        self._receiver.cancel()
        await asyncio.gather(self._receiver, return_exceptions=True)
        self._link.close()

    # ---- rollout ---------------------------------------------------------------------------------
    async def lease(
        self, max_groups: int, serving_version: int, wait_s: float, history: int = 0
    ) -> p.Leases:
        """Work, once there is some; empty when `wait_s` runs out.

        When the caller is cancelled, leases that still arrive are given back.
        """
        request = p.LeaseRequest(
            **self._me(),
            max_groups=max_groups,
            history=history,
            serving_version=serving_version,
            wait_s=wait_s,
        )
        return await self._request(request, p.Leases, wait_s)

    async def submit(self, group: Group) -> p.Verdict:
        """What became of a group; see `broker.bundling` for when it is sent."""
        loop = asyncio.get_running_loop()
        batch, give_up_at = group_batch.encode(group), loop.time() + self._patience_s
        pauses = backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._rng)
        while not isinstance(outcome := await self._bundler.submit(batch), p.Verdict):
            if not _ends_by_itself(outcome) or loop.time() > give_up_at:
                raise RequestRefused(outcome.code, outcome.message)
            logger.warning("group %s: %s", group.group_id, outcome)
            await asyncio.sleep(next(pauses))
        return outcome

    async def _submit_all(self, groups: tuple[bytes, ...]) -> tuple[Outcome, ...]:
        request = p.SubmitGroups(**self._me(), groups=groups)
        return (await self._request(request, p.Submitted)).outcomes

    async def give_back(self, group_id: str, attempt: int, reason: str, blame: p.Blame) -> p.Done:
        return await self._request(
            self._give_back_request(group_id, attempt, reason, blame), p.Done
        )

    async def watch_weights(self, seen_serial: int, wait_s: float) -> p.Announcement:
        """The newest announcement for this member, once there is one after `seen_serial`."""
        request = p.WatchWeights(**self._me(), seen_serial=seen_serial, wait_s=wait_s)
        return await self._request(request, p.Announcement, wait_s)

    async def ack_weights(self, version: int, history: int = 0, is_pinned: bool = False) -> p.Done:
        request = p.AckWeights(**self._me(), history=history, version=version, is_pinned=is_pinned)
        return await self._request(request, p.Done)

    async def lease_answers(
        self, history: int, serving_version: int, pinned: Sequence[int], most: int, wait_s: float
    ) -> p.AnswerLease:
        """Held-out questions for these weights, once there are some; none when `wait_s` is over."""
        request = p.LeaseAnswers(
            **self._me(),
            history=history,
            serving_version=serving_version,
            pinned=tuple(pinned),
            max_items=most,
            wait_s=wait_s,
        )
        return await self._request(request, p.AnswerLease, wait_s)

    async def submit_answers(
        self, number: int, answers: Sequence[p.Answer], given_back: Sequence[int] = ()
    ) -> p.Done:
        request = p.SubmitAnswers(
            **self._me(), number=number, answers=tuple(answers), given_back=tuple(given_back)
        )
        return await self._request(request, p.Done)

    # ---- learner ---------------------------------------------------------------------------------
    async def order_measurement(
        self,
        number: int,
        history: int,
        version: int,
        sample_ids: Sequence[str],
        *,
        num_urgent: int,
        max_tokens: int,
        is_last: bool,
    ) -> p.Done:
        request = p.OrderMeasurement(
            **self._me(),
            number=number,
            history=history,
            version=version,
            sample_ids=tuple(sample_ids),
            num_urgent=num_urgent,
            max_tokens=max_tokens,
            is_last=is_last,
        )
        return await self._request(request, p.Done)

    async def read_measurement(
        self, number: int, seen: int, is_pinned: bool, wait_s: float
    ) -> p.MeasurementNews:
        """What is new beyond `seen` answers and `is_pinned`, or nothing when `wait_s` is over."""
        request = p.ReadMeasurement(
            **self._me(), number=number, seen=seen, is_pinned=is_pinned, wait_s=wait_s
        )
        return await self._request(request, p.MeasurementNews, wait_s)

    async def drop_measurement(self, number: int) -> p.Done:
        return await self._request(p.DropMeasurement(**self._me(), number=number), p.Done)

    async def resume(self, step: int) -> p.Resumed:
        """Say first of all which step this learner starts from; what came after it is undone."""
        return await self._request(p.Resume(**self._me(), step=step), p.Resumed)

    async def take(self, step: int, wait_s: float, rank: int = 0, world_size: int = 1) -> Taken:
        """This rank's groups of a step, all of them; none when `wait_s` runs out."""
        groups: list[bytes] = []
        taking = 0
        while True:
            request = p.TakeBatch(
                **self._me(),
                step=step,
                rank=rank,
                world_size=world_size,
                first=len(groups),
                taking=taking,
                wait_s=wait_s,
            )
            page = await self._request(request, p.Batch, wait_s)
            groups += page.groups
            taking = self._takings[rank] = page.taking
            if not page.groups or len(groups) >= page.num_groups:
                is_whole = len(groups) == page.num_groups
                taken = tuple(map(group_batch.read, groups)) if is_whole else ()
                return Taken(step, taken, page.exhausted)

    async def ack(
        self, step: int, refused: dict[str, str] | None = None, rank: int = 0, wait_s: float = 0.0
    ) -> p.Acknowledged:
        """This rank has trained its groups. Waits up to `wait_s` until all ranks have."""
        request = p.AckBatch(
            **self._me(),
            step=step,
            taking=self._takings.get(rank, 0),
            rank=rank,
            refused={group: _as_reason(reason) for group, reason in (refused or {}).items()},
            wait_s=wait_s,
        )
        return await self._request(request, p.Acknowledged, wait_s)

    async def commit(self, step: int, oldest: int) -> p.Done:
        """Before a checkpoint of `step` becomes valid: make the steps up to it durable."""
        return await self._request(p.CommitStep(**self._me(), step=step, oldest=oldest), p.Done)

    async def announce(self, update: WeightUpdate) -> p.Done:
        return await self._request(p.AnnounceWeights(**self._me(), update=update), p.Done)

    async def watch_members(self, at_least: int, wait_s: float) -> p.Members:
        request = p.WatchMembers(**self._me(), at_least=at_least, wait_s=wait_s)
        return await self._request(request, p.Members, wait_s)

    async def finish(self, reason: str) -> p.Done:
        return await self._request(p.Finish(**self._me(), reason=_as_reason(reason)), p.Done)

    # ---- everybody -------------------------------------------------------------------------------
    async def heartbeat(self, gauges: dict[str, float]) -> p.Done:
        request = p.Heartbeat(
            **self._me(), ranks=self._ranks, versions=self._versions, gauges=_sendable(gauges)
        )
        return await self._request(request, p.Done)

    async def status(self) -> p.Status:
        return await self._request(p.GetStatus(), p.Status)

    async def image(self, sha256: str) -> bytes:
        """The encoded file of an image of the dataset, verified."""
        reply = await self._request(p.GetImage(sha256=sha256), p.ImageBytes)
        if hashlib.sha256(reply.content).hexdigest() != sha256:
            raise ProtocolError(f"the broker sent other bytes than those of image {sha256}")
        return reply.content

    async def goodbye(self, failure: str = "") -> p.Done:
        """Leave: leases go back, and nobody waits for this member.

        Args:
            failure: what ended it; empty: it leaves in good order.
        """
        return await self._request(p.Goodbye(**self._me(), failure=_as_reason(failure)), p.Done)

    # ---- requests and replies --------------------------------------------------------------------
    def _me(self) -> dict[str, Any]:
        return {"member_id": self._member_id, "incarnation": self._incarnation}

    def _give_back_request(
        self, group_id: str, attempt: int, reason: str, blame: p.Blame
    ) -> p.GiveBack:
        return p.GiveBack(
            **self._me(),
            group_id=group_id,
            attempt=attempt,
            reason=_as_reason(reason),
            blame=blame,
        )

    async def _say_hello(self) -> None:
        hello = p.Hello(
            **self._me(),
            role=self._role,
            ranks=self._ranks,
            details=self._details,
            versions=self._versions,
        )
        reply = await self._exchange(hello, 0)
        if isinstance(reply, p.Refused) and reply.code in _OF_ANOTHER_VERSION:
            raise VersionMismatch(_not_let_in(reply))
        self.welcome = _expect(reply, p.Welcome)
        self._max_frame_bytes = min(self._max_frame_bytes, self.welcome.max_frame_bytes)
        if self.welcome.protocol_version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the broker speaks protocol {self.welcome.protocol_version}, this process "
                f"{PROTOCOL_VERSION}. {_SAME_CODE}"
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
        loop = asyncio.get_running_loop()
        frames = encode_message(request)
        num_bytes = sum(map(len, frames))
        if num_bytes > self._max_frame_bytes:
            raise MessageTooLarge(
                f"{type(request).__name__} of {num_bytes} bytes is over the limit of "
                f"{self._max_frame_bytes}. Fix: raise broker.max_frame_mib"
            )
        request_id = self._new_id()
        pauses = backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._rng)
        name = type(request).__name__
        attempt, give_up_at = 1, loop.time() + self._patience_s
        answer = self._answers[request_id] = loop.create_future()
        try:
            while attempt <= self._tries:
                if not await self._try(request_id, frames, answer, wait_s + self._timeout_s):
                    logger.warning("no answer to %s (try %d of %d)", name, attempt, self._tries)
                    attempt += 1
                    await asyncio.wait((answer,), timeout=next(pauses))
                    continue
                reply: BaseModel = answer.result()
                if not _ends_by_itself(reply) or loop.time() > give_up_at:
                    return reply
                logger.warning("%s: %s", name, reply)
                answer = self._answers[request_id] = loop.create_future()
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
            + (_NOT_LET_IN if isinstance(request, p.Hello) else "")
        )

    async def _try(
        self,
        request_id: bytes,
        frames: list[bytes],
        answer: asyncio.Future[BaseModel],
        timeout_s: float,
    ) -> bool:
        """Send once; True when the answer is there, also one to an earlier try."""
        try:
            async with asyncio.timeout(timeout_s):
                if not answer.done():
                    await self._link.send([request_id, *frames])
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
            parts = await self._link.receive()
            if len(parts) < 2:
                logger.warning("a reply of %d parts was left out", len(parts))
                continue
            request_id, frame, *attachments = parts
            answer = self._answers.get(request_id)
            is_awaited = answer is not None and not answer.done()
            if not is_awaited and request_id not in self._abandoned:
                continue  # answered before: this is the reply to a request sent twice
            try:
                reply = decode(frame, p.REPLIES, attachments, max_bytes=self._max_frame_bytes)
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
                lease.group_id,
                lease.attempt,
                "arrived after its request was cancelled",
                p.Blame.NOBODY,
            )
            self._link.post([self._new_id(), encode(request)])


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


def _sendable(gauges: dict[str, float]) -> dict[str, float]:
    """Those that are numbers: nobody can draw the others, and the broker takes no message of them.

    A loss that is NaN is in the metrics and the log.
    """
    return {name: value for name, value in gauges.items() if math.isfinite(value)}


def _not_let_in(refused: p.Refused) -> str:
    if refused.code == "malformed":  # its messages have other fields than ours
        return f"the broker is of another version: {refused.message}. {_SAME_CODE}"
    return f"the broker does not let this process in: {refused.message}"


def _as_reason(reason: str) -> str:
    """A reason as a message may hold it: UTF-8 of a bounded length, whatever an engine has said."""
    return reason[: p.REASON_LENGTH].encode("utf-8", "replace").decode()


def _ends_by_itself(reply: BaseModel) -> bool:
    return isinstance(reply, p.Refused) and reply.code in _ASK_AGAIN


def _expect(reply: BaseModel, kind: type[_Reply]) -> _Reply:
    if isinstance(reply, p.Refused):
        raise RequestRefused(reply.code, reply.message)
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected {kind.__name__}, the broker sent {type(reply).__name__}")
    return reply
