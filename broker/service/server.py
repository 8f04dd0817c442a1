"""The broker's loop: bytes -> request -> service -> store -> reply -> bytes, and the one timer.

Envelope of a request: [identity, request id (8 bytes), frame, what is attached to it, if anything];
of a reply the same. Requests that are there together are handled together and flushed once. No
reply leaves before its flush.
"""

import asyncio
import logging
from collections import OrderedDict
from types import TracebackType
from typing import Self

from broker.ledger.refusal import Refusal, refused_for
from broker.net.transport import Listener, Received
from broker.protocol import Refused, Request, Status, read_request
from broker.service.handlers import Call, handlers_of
from broker.service.images import DatasetImages
from broker.service.outbox import Outgoing, answered
from broker.service.quarantine_file import QuarantineFile
from broker.service.rights import check_right
from broker.service.service import BrokerService
from broker.storage.store import StoreFailure
from common import spans
from common.errors import ProtocolError
from common.types import Record
from common.wire import encode_message, kind_of

logger = logging.getLogger(__name__)
REQUEST_ID_BYTES = 8
_NO_REQUEST = b"\0" * REQUEST_ID_BYTES
_MAX_READS = 64  # waiting or running
_MAX_TOGETHER = 64  # requests a flush
_ENOUGH_BYTES = 128 * 2**10  # of requests a flush: beyond this a flush that blocks nothing is cheap
_MAX_SHUT_OUT = 4096  # connections remembered
_RETRY_S = 1.0  # between tries of a store that fails


class BrokerServer:
    """Owns the listener; bind by entering the context, then `serve`.

    Args:
        images: has handlers that block.
        started_at: where the service's clock stood when it was recovered, in seconds.
        quarantine_file: is kept up to date; None means that there is no run folder.
    """

    def __init__(
        self,
        service: BrokerService,
        images: DatasetImages,
        listener: Listener,
        *,
        max_frame_bytes: int,
        started_at: float = 0.0,
        quarantine_file: QuarantineFile | None = None,
    ) -> None:
        self._quarantine_file = quarantine_file
        self._service = service
        self._blocking = handlers_of(images)  # called in threads, beside the service
        self._listener = listener
        self._max_frame_bytes = max_frame_bytes
        self._clock = started_at
        self._num_reads = 0
        self._flushing = asyncio.Lock()
        self._withheld: list[Outgoing] = []  # until the store takes what they promise
        self._deadline_moved = asyncio.Event()
        self._armed: float | None = None  # the deadline that the timer waits for
        self._is_over = asyncio.Event()
        self._num_malformed = 0
        self._shut_out: OrderedDict[bytes, None] = OrderedDict()  # connections, the latest last
        self.address = ""  # as bound

    async def __aenter__(self) -> Self:
        loop_s = asyncio.get_running_loop().time()
        self._offset = self._clock - loop_s
        # Where the journal's clock stands: the loop's is the system's steady one.
        spans.note("clock", loop_s, clock_s=self._clock)
        spans.flush()
        self.address = self._listener.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    async def serve(self, stop: asyncio.Event, drain_s: float) -> None:
        """Answer until the run is over, or `stop` is set: then members have `drain_s` to leave."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._receive(tasks), name="receive"),
                tasks.create_task(self._keep_time(), name="timer"),
                tasks.create_task(self._finish_on(stop, drain_s), name="stop"),
            ]
            await self._is_over.wait()
            for task in running:
                task.cancel()

    def status(self) -> Status:
        """The run's status now."""
        return self._service.status(self._now())

    def _now(self) -> float:
        """Seconds on the service's clock, which never goes back."""
        self._clock = max(self._clock, asyncio.get_running_loop().time() + self._offset)
        return self._clock

    # ---- requests --------------------------------------------------------------------------------
    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            outgoing: list[Outgoing] = []
            received: Received | None = await self._listener.receive()
            num_handled, num_bytes, was_failing = 0, 0, self._is_failing
            most_bytes = self._max_frame_bytes if self._service.store.blocks else _ENOUGH_BYTES
            while received is not None:
                outgoing += self._handle(received, tasks)
                num_handled += 1
                num_bytes += sum(map(len, received.envelope))
                has_room = num_handled < _MAX_TOGETHER and num_bytes < most_bytes
                received = self._listener.receive_now() if has_room else None
            await self._deliver(outgoing, was_failing)

    @property
    def _is_failing(self) -> bool:
        """Whether the store takes nothing, so that the service changes nothing."""
        return self._service.store.failure is not None

    def _handle(self, received: Received, tasks: asyncio.TaskGroup) -> list[Outgoing]:
        envelope, role = received
        if envelope[0] in self._shut_out:
            return []
        try:
            peer, request_id, frame, attached = _opened(envelope, self._max_frame_bytes)
            check_right(kind_of(frame), role)
            request = read_request(frame, attached, self._max_frame_bytes)
        except Refusal as refusal:
            return [Outgoing(peer, request_id, refusal.reply())]
        except Exception as error:  # whatever it is, the sender made it
            return [self._refuse_malformed(envelope, error)]
        if type(request) in self._blocking:
            return self._begin_to_read(tasks, request, Call(peer, request_id, self._now()))
        return self._service.handle(peer, request_id, request, self._now(), role)

    def _refuse_malformed(self, parts: list[bytes], error: Exception) -> Outgoing:
        """The sender gets an error, and nothing more that comes over its connection is read."""
        self._num_malformed += 1
        if self._num_malformed.bit_count() == 1:  # the 1st, 2nd, 4th, 8th...: a flood stays short
            told = error if isinstance(error, ProtocolError) else repr(error)
            logger.warning("malformed request (%d so far): %s", self._num_malformed, told)
        self._shut_out[parts[0]] = None
        if len(self._shut_out) > _MAX_SHUT_OUT:
            self._shut_out.popitem(last=False)
        has_id = len(parts) > 1 and len(parts[1]) == REQUEST_ID_BYTES
        refused = Refused(code="malformed", message=str(error)[:500])
        return Outgoing(parts[0], parts[1] if has_id else _NO_REQUEST, refused)

    # ---- replies ---------------------------------------------------------------------------------
    async def _deliver(
        self, outgoing: list[Outgoing], was_failing: bool, *, is_retry: bool = False
    ) -> None:
        """Send replies once what they promise is safe.

        Args:
            was_failing: whether the store failed before the requests were handled. Then they have
                changed nothing. A flush in a thread may have failed since: replies of before that
                are withheld.
        """
        if was_failing and self._is_failing:
            await self._send(outgoing)
            outgoing = []
            if not is_retry:
                return
        async with self._flushing:
            self._withheld += outgoing
            if await self._flush():
                outgoing, self._withheld = self._withheld, []
                await self._send(outgoing)
        if self._quarantine_file is not None:
            self._quarantine_file.update(self._service.quarantined)
        deadline = self._service.next_deadline()
        has_moved = deadline is not None and (self._armed is None or deadline < self._armed)
        if has_moved or self._service.store.failure is not None:
            self._deadline_moved.set()

    async def _send(self, outgoing: list[Outgoing]) -> None:
        frames, encoded = [b""], None
        for peer, request_id, message in outgoing:
            if message is not encoded:  # an announcement goes to many
                frames, encoded = self._frames_of(message), message
            await self._listener.send([peer, request_id, *frames])
        if self._service.is_over:
            self._is_over.set()

    async def _flush(self) -> bool:
        store = self._service.store
        if not store.is_dirty:
            return True
        was_failing = store.failure is not None
        try:
            if store.blocks:
                await asyncio.to_thread(store.flush)
            else:
                store.flush()
        except StoreFailure as error:
            if not was_failing:
                logger.error("%s. Leasing has stopped; it goes on when this ends", error)
            return False
        if was_failing:
            logger.warning("the store takes data again")
        return True

    def _frames_of(self, message: Record) -> list[bytes]:
        try:
            frames = encode_message(message)
        except Exception as error:  # the receiver's request ends, not the broker
            logger.exception("%s cannot be sent", type(message).__name__)
            return encode_message(refused_for(error))
        num_bytes = sum(map(len, frames))
        if num_bytes > self._max_frame_bytes:
            return encode_message(self._too_large(message, num_bytes))
        return frames

    def _too_large(self, message: Record, num_bytes: int) -> Refused:
        return Refused(
            code="too_large",
            message=f"{type(message).__name__} of {num_bytes} bytes is over the limit of "
            f"{self._max_frame_bytes}. Fix: raise broker.max_frame_mib",
        )

    # ---- images ----------------------------------------------------------------------------------
    def _begin_to_read(
        self, tasks: asyncio.TaskGroup, request: Request[Record], call: Call
    ) -> list[Outgoing]:
        if self._num_reads >= _MAX_READS:
            refused = Refused(code="too_many", message="too many image reads at once: ask again")
            return [Outgoing(call.peer, call.request_id, refused)]
        self._num_reads += 1
        tasks.create_task(self._read(request, call), name="image")
        return []

    async def _read(self, request: Request[Record], call: Call) -> None:
        def read() -> Record:
            reply = self._blocking[type(request)](request, call)
            assert isinstance(reply, Record), "a handler that blocks holds no request"
            return reply

        try:
            reply = await asyncio.to_thread(answered, type(request), read)
        finally:
            self._num_reads -= 1
        await self._deliver([Outgoing(call.peer, call.request_id, reply)], self._is_failing)

    # ---- time ------------------------------------------------------------------------------------
    async def _keep_time(self) -> None:
        """Tick at the next deadline, and only then; while the store fails, try it again."""
        while True:
            self._deadline_moved.clear()
            self._armed = self._service.next_deadline()
            if self._service.store.failure is not None:
                again = self._now() + _RETRY_S
                self._armed = again if self._armed is None else min(self._armed, again)
            wait_s = None if self._armed is None else max(0.0, self._armed - self._now())
            try:
                async with asyncio.timeout(wait_s):
                    await self._deadline_moved.wait()
            except TimeoutError:
                assert self._armed is not None
                self._clock = max(self._clock, self._armed)  # whatever the rounding
                was_failing = self._is_failing
                outgoing = self._service.tick(self._now())
                await self._deliver(outgoing, was_failing, is_retry=True)

    async def _finish_on(self, stop: asyncio.Event, drain_s: float) -> None:
        await stop.wait()
        was_failing = self._is_failing
        outgoing = self._service.finish("the broker was told to stop", self._now())
        await self._deliver(outgoing, was_failing)
        try:
            async with asyncio.timeout(drain_s):
                await self._is_over.wait()
        except TimeoutError:
            left = ", ".join(member.member_id for member in self._service.membership.all())
            logger.warning("stopping although these have not left: %s", left)
            self._is_over.set()


def _opened(parts: list[bytes], max_bytes: int) -> tuple[bytes, bytes, bytes, bytes | None]:
    """(sender, request id, frame, what is attached to it). Raises ProtocolError."""
    if len(parts) not in (3, 4) or len(parts[1]) != REQUEST_ID_BYTES:
        raise ProtocolError("an envelope is a request id of 8 bytes and one frame or two")
    if (num_bytes := sum(map(len, parts))) > max_bytes + len(parts[0]) + REQUEST_ID_BYTES:
        raise ProtocolError(f"an envelope of {num_bytes} bytes is over the limit of {max_bytes}")
    return parts[0], parts[1], parts[2], parts[3] if len(parts) == 4 else None
