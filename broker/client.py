"""The broker as its members see it: one coroutine a request, sent until it is answered."""

import asyncio
import hashlib
import logging
import math
import os
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from broker import protocol as p
from broker.bundling import Bundler, Outcome
from broker.exchange import PAUSES_S, Exchange, ends_by_itself
from broker.exchange import MessageTooLarge as MessageTooLarge
from broker.net.transport import Link, ZmqLink
from common import group_batch
from common.errors import ProtocolError, VersionMismatch
from common.group import Group
from common.lifecycle import backoff
from common.types import Record, WeightUpdate
from common.wire import MAX_FRAME_BYTES, PROTOCOL_VERSION

logger = logging.getLogger(__name__)
_Reply = TypeVar("_Reply", bound=Record)
_BUNDLE_BYTES = 4 * 2**20
_SAME_CODE = "Fix: run the same checkout or image on every node"
_OF_ANOTHER_VERSION = ("version_mismatch", "malformed")  # what a hello may be refused for
PATIENCE_S = 600.0  # seconds for which a client asks a broker again that is full or whose disk is
CALL_TIMEOUT_S = PATIENCE_S + 100.0  # seconds a thread waits for a client: its tries take some more


class RequestRefused(ProtocolError):
    """The broker understood a request and turned it down. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Taken(NamedTuple):
    """The groups of a step that a learner rank got: all that are its own, or none yet."""

    step: int
    groups: tuple[Group, ...]
    exhausted: bool  # there will be no such step


class BrokerClient:
    """One life of one member. Enter the context to connect and say hello.

    Requests may run at once. One that is not answered in `request_timeout_s` (beyond its own
    `wait_s`) is sent again as it was, up to `tries` times in all. A member that the broker has
    counted as gone says hello again by itself; one whose name was taken is refused for good. A
    broker that has no room, or whose disk is full, is asked again for `patience_s` seconds.

    Args:
        ranks: processes of this rollout server in a push group.
        versions: of this process, which the broker compares with others'; None means that it does
            not.
        link: how it reaches the broker; None means ZeroMQ.
        rng: draws the incarnation, request ids and jitter; None means the system's entropy.
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
        patience_s: float = PATIENCE_S,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        link: Link | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.welcome: p.Welcome
        self._member_id = member_id
        self._role = role
        self._ranks = ranks
        told = {"pid": str(os.getpid()), **(details or {})}
        self._details = {name: value[: p.DETAIL_LENGTH] for name, value in told.items()}
        self._versions = versions or {}
        self._rng = random.SystemRandom() if rng is None else rng
        self._incarnation = self._rng.getrandbits(63)
        self._patience_s = patience_s
        self._batch_ids: dict[int, int] = {}  # `batch_id` of the last batch taken, by rank
        self._exchange = Exchange(
            ZmqLink() if link is None else link,
            address,
            timeout_s=request_timeout_s,
            tries=tries,
            patience_s=patience_s,
            max_frame_bytes=max_frame_bytes,
            rng=self._rng,
        )

    async def __aenter__(self) -> Self:
        self._exchange.open()
        self._bundler = Bundler(self._submit_all, self._bundle_bytes)
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
        await self._exchange.close()

    # ---- rollout ---------------------------------------------------------------------------------
    async def lease(
        self, max_groups: int, serving_version: int, wait_s: float, history: int = 0
    ) -> p.Leases:
        """Ask for work; the reply comes once there is some, and is empty when `wait_s` runs out.

        When the caller is cancelled, leases that still arrive are given back.
        """
        request = p.LeaseRequest(
            max_groups=max_groups, history=history, serving_version=serving_version, wait_s=wait_s
        )
        return await self._request(request, unclaimed=self._return_leases)

    async def submit(self, group: Group) -> p.Verdict:
        """What became of a group; see `broker.bundling` for when it is sent."""
        loop = asyncio.get_running_loop()
        batch, give_up_at = group_batch.encode(group), loop.time() + self._patience_s
        pauses = backoff(*PAUSES_S, self._rng)
        while not isinstance(outcome := await self._bundler.submit(batch), p.Verdict):
            if not ends_by_itself(outcome) or loop.time() > give_up_at:
                raise RequestRefused(outcome.code, outcome.message)
            logger.warning("group %s: %s", group.group_id, outcome)
            await asyncio.sleep(next(pauses))
        return outcome

    def _bundle_bytes(self) -> int:
        """A message as long as it may be would hold up heartbeats on a slow link."""
        return min(_BUNDLE_BYTES, self._exchange.max_frame_bytes // 2)

    async def _submit_all(self, groups: tuple[bytes, ...]) -> tuple[Outcome, ...]:
        return (await self._request(p.SubmitGroups(groups=groups))).outcomes

    async def give_back(self, group_id: str, attempt: int, reason: str, blame: p.Blame) -> p.Done:
        request = p.GiveBack(
            group_id=group_id, attempt=attempt, reason=_as_reason(reason), blame=blame
        )
        return await self._request(request)

    async def watch_weights(self, seen_serial: int, wait_s: float) -> p.Announcement:
        """Wait for an announcement to this member that is newer than `seen_serial`."""
        return await self._request(p.WatchWeights(seen_serial=seen_serial, wait_s=wait_s))

    async def ack_weights(self, version: int, history: int = 0, is_pinned: bool = False) -> p.Done:
        request = p.AckWeights(history=history, version=version, is_pinned=is_pinned)
        return await self._request(request)

    async def lease_answers(
        self, history: int, serving_version: int, pinned: Sequence[int], most: int, wait_s: float
    ) -> p.AnswerLease:
        """Ask for held-out questions to these weights; the reply has none when `wait_s` is over."""
        request = p.LeaseAnswers(
            history=history,
            serving_version=serving_version,
            pinned=tuple(pinned),
            max_items=most,
            wait_s=wait_s,
        )
        return await self._request(request)

    async def submit_answers(
        self, number: int, answers: Sequence[p.Answer], given_back: Sequence[int] = ()
    ) -> p.Done:
        request = p.SubmitAnswers(
            number=number, answers=tuple(answers), given_back=tuple(given_back)
        )
        return await self._request(request)

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
            number=number,
            history=history,
            version=version,
            sample_ids=tuple(sample_ids),
            num_urgent=num_urgent,
            max_tokens=max_tokens,
            is_last=is_last,
        )
        return await self._request(request)

    async def read_measurement(
        self, number: int, seen: int, is_pinned: bool, wait_s: float
    ) -> p.MeasurementNews:
        """Wait for news beyond `seen` answers and `is_pinned`; none when `wait_s` is over."""
        request = p.ReadMeasurement(number=number, seen=seen, is_pinned=is_pinned, wait_s=wait_s)
        return await self._request(request)

    async def drop_measurement(self, number: int) -> p.Done:
        return await self._request(p.DropMeasurement(number=number))

    async def resume(self, step: int) -> p.Resumed:
        """Say which step this learner starts from, before all else; later steps are undone."""
        return await self._request(p.Resume(step=step))

    async def take(self, step: int, wait_s: float, rank: int = 0, world_size: int = 1) -> Taken:
        """Get all of this rank's groups of a step; none when `wait_s` runs out."""
        groups: list[bytes] = []
        batch_id = 0
        while True:
            request = p.TakeBatch(
                step=step,
                rank=rank,
                world_size=world_size,
                first=len(groups),
                batch_id=batch_id,
                wait_s=wait_s,
            )
            page = await self._request(request)
            groups += page.groups
            batch_id = self._batch_ids[rank] = page.batch_id
            if not page.groups or len(groups) >= page.num_groups:
                is_whole = len(groups) == page.num_groups
                taken = tuple(map(group_batch.read_again, groups)) if is_whole else ()
                return Taken(step, taken, page.exhausted)

    async def ack(
        self, step: int, refused: dict[str, str] | None = None, rank: int = 0, wait_s: float = 0.0
    ) -> p.Acknowledged:
        """Say that this rank has trained its groups. Waits up to `wait_s` until all ranks have."""
        request = p.AckBatch(
            step=step,
            batch_id=self._batch_ids.get(rank, 0),
            rank=rank,
            refused={group: _as_reason(reason) for group, reason in (refused or {}).items()},
            wait_s=wait_s,
        )
        return await self._request(request)

    async def commit(self, step: int, oldest: int) -> p.Done:
        """Make the steps up to `step` durable, before a checkpoint of it becomes valid."""
        return await self._request(p.CommitStep(step=step, oldest=oldest))

    async def announce(self, update: WeightUpdate) -> p.Done:
        return await self._request(p.AnnounceWeights(update=update))

    async def watch_members(self, at_least: int, wait_s: float) -> p.Members:
        return await self._request(p.WatchMembers(at_least=at_least, wait_s=wait_s))

    async def finish(self, reason: str) -> p.Done:
        return await self._request(p.Finish(reason=_as_reason(reason)))

    # ---- any member ------------------------------------------------------------------------------
    async def heartbeat(self, gauges: dict[str, float]) -> p.Done:
        request = p.Heartbeat(ranks=self._ranks, versions=self._versions, gauges=_sendable(gauges))
        return await self._request(request)

    async def status(self) -> p.Status:
        return await self._request(p.GetStatus())

    async def image(self, sha256: str) -> bytes:
        """Fetch the encoded file of an image of the dataset, and verify it."""
        reply = await self._request(p.GetImage(sha256=sha256))
        if hashlib.sha256(reply.content).hexdigest() != sha256:
            raise ProtocolError(f"the broker sent other bytes than those of image {sha256}")
        return reply.content

    async def goodbye(self, failure: str = "") -> p.Done:
        """Leave: leases go back, and the broker waits for this member no longer.

        Args:
            failure: what ended it; empty means that it leaves in good order.
        """
        await self._bundler.close()  # a group behind a goodbye would bring the member back
        return await self._request(p.Goodbye(failure=_as_reason(failure)))

    # ---- requests and replies --------------------------------------------------------------------
    async def _request(
        self, request: p.Request[_Reply], unclaimed: Callable[[Record], None] | None = None
    ) -> _Reply:
        """Ask in this member's name; after a new hello, if the broker does not know it any more."""
        signed = self._signed(request)
        reply = await self._exchange.ask(signed, unclaimed)
        if isinstance(reply, p.Refused) and reply.code == "unknown_member":
            logger.warning("the broker had given %s up; saying hello again", self._member_id)
            await self._say_hello()
            reply = await self._exchange.ask(signed, unclaimed)
        return _expect(reply, request.reply_type())

    def _signed(self, request: p.Request[_Reply]) -> p.Request[_Reply]:
        if isinstance(request, p.MemberRequest):
            return request.sent_by(self._member_id, self._incarnation)
        return request

    async def _say_hello(self) -> None:
        hello = p.Hello(
            role=self._role, ranks=self._ranks, details=self._details, versions=self._versions
        )
        reply = await self._exchange.ask(self._signed(hello))
        if isinstance(reply, p.Refused) and reply.code in _OF_ANOTHER_VERSION:
            raise VersionMismatch(_not_let_in(reply))
        self.welcome = _expect(reply, p.Welcome)
        self._exchange.max_frame_bytes = min(
            self._exchange.max_frame_bytes, self.welcome.max_frame_bytes
        )
        if self.welcome.protocol_version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the broker speaks protocol {self.welcome.protocol_version}, this process "
                f"{PROTOCOL_VERSION}. {_SAME_CODE}"
            )

    def _return_leases(self, reply: Record) -> None:
        """Give back what a lease request brought after its caller had been cancelled."""
        if not isinstance(reply, p.Leases):
            return
        for lease in reply.leases:
            request = p.GiveBack(
                group_id=lease.group_id,
                attempt=lease.attempt,
                reason="arrived after its request was cancelled",
                blame=p.Blame.NOBODY,
            )
            self._exchange.post(self._signed(request))


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
    """Gauges that are finite numbers: the broker refuses a message with any other.

    A loss that is NaN is in the metrics and the log.
    """
    return {name: value for name, value in gauges.items() if math.isfinite(value)}


def _not_let_in(refused: p.Refused) -> str:
    if refused.code == "malformed":  # its messages have other fields than ours
        return f"the broker is of another version: {refused.message}. {_SAME_CODE}"
    return f"the broker does not let this process in: {refused.message}"


def _as_reason(reason: str) -> str:
    """A reason as a message may hold it: UTF-8 of a bounded length, even if an engine's is not."""
    return reason[: p.REASON_LENGTH].encode("utf-8", "replace").decode()


def _expect(reply: Record, kind: type[_Reply]) -> _Reply:
    if isinstance(reply, p.Refused):
        raise RequestRefused(reply.code, reply.message)
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected {kind.__name__}, the broker sent {type(reply).__name__}")
    return reply
