"""The broker's socket: bytes -> request -> service -> reply -> bytes, and the one timer.

Envelope of a request: [identity, request id (8 bytes), frame]; of a reply the same.
"""

import asyncio
import logging
import re
import time
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio
from pydantic import BaseModel

from broker.protocol import REQUESTS, GetImage, ImageBytes, Refused
from broker.refusal import Refusal
from broker.service import BrokerService, Outgoing
from common.errors import ConfigError, DataError, ProtocolError
from common.images import ImageStore
from common.types import ImageRef, Sample
from common.wire import decode, encode

logger = logging.getLogger(__name__)
REQUEST_ID_BYTES = 8
_NO_REQUEST = b"\0" * REQUEST_ID_BYTES
_MAX_IMAGE_READS = 64  # waiting or running
_QUEUED_MESSAGES = 256  # a peer and direction, held by ZeroMQ
_CLOSING_S = 0.5  # for the last replies to leave
_LOOPBACK = re.compile(r"tcp://(127(?:\.\d{1,3}){3}|localhost):(\d{1,5})")


class ImageShelf:
    """The dataset's image files by digest; nothing else can be asked for."""

    def __init__(self, store: ImageStore, samples: list[Sample]) -> None:
        self._store = store
        self._refs: dict[str, ImageRef] = {}
        for sample in samples:
            for ref in (sample.image, sample.crop):
                if ref is not None:
                    self._refs[ref.sha256] = ref

    def read(self, sha256: str) -> bytes:
        """The encoded file. Blocks.

        Raises:
            Refusal: not an image of the dataset, or its file is not what the dataset says.
        """
        ref = self._refs.get(sha256)
        if ref is None:
            raise Refusal("unknown_image", f"{sha256} is not an image of this dataset")
        try:
            return self._store.read_bytes(ref)
        except DataError as error:
            raise Refusal("unknown_image", str(error)) from error


class BrokerServer:
    """Owns the ROUTER socket; bind by entering the context, then `serve`."""

    def __init__(
        self, service: BrokerService, shelf: ImageShelf, address: str, *, max_frame_bytes: int
    ) -> None:
        self._service = service
        self._shelf = shelf
        self._wanted_address = loopback_only(address)
        self._max_frame_bytes = max_frame_bytes
        self._image_reads = asyncio.Semaphore(_MAX_IMAGE_READS)
        self._deadline_moved = asyncio.Event()
        self._armed: float | None = None  # the deadline that the timer waits for
        self._is_over = asyncio.Event()
        self._num_malformed = 0
        self.address = ""  # as bound

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes)
        self._socket.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
        try:
            self._socket.bind(self._wanted_address)
        except zmq.ZMQError as error:
            self._close()
            raise ConfigError(
                f"broker.address = {self._wanted_address}: {error.strerror}. "
                "Fix: choose another port, or 0 for a free one"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._socket.close(linger=int(_CLOSING_S * 1000))
        self._context.term()

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

    # ---- requests --------------------------------------------------------------------------------
    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            try:
                peer, request_id, request = self._open(parts)
            except ProtocolError as error:
                await self._refuse_malformed(parts, error)
                continue
            if isinstance(request, GetImage):
                await self._begin_image_read(tasks, peer, request_id, request.sha256)
            else:
                now = time.monotonic()
                await self._deliver(self._service.handle(peer, request_id, request, now))

    def _open(self, parts: list[bytes]) -> tuple[bytes, bytes, BaseModel]:
        if len(parts) != 3 or len(parts[1]) != REQUEST_ID_BYTES:
            raise ProtocolError("an envelope is a request id of 8 bytes and one frame")
        peer, request_id, frame = parts
        return peer, request_id, decode(frame, REQUESTS, max_bytes=self._max_frame_bytes)

    async def _refuse_malformed(self, parts: list[bytes], error: ProtocolError) -> None:
        self._num_malformed += 1
        if self._num_malformed.bit_count() == 1:  # the 1st, 2nd, 4th, 8th...: a flood stays short
            logger.warning("malformed request (%d so far): %s", self._num_malformed, error)
        has_id = len(parts) > 1 and len(parts[1]) == REQUEST_ID_BYTES
        refused = Refused(code="malformed", message=str(error)[:500])
        request_id = parts[1] if has_id else _NO_REQUEST
        await self._deliver([Outgoing(parts[0], request_id, refused)])

    async def _deliver(self, outgoing: list[Outgoing]) -> None:
        for peer, request_id, message in outgoing:
            frame = encode(message)
            if len(frame) > self._max_frame_bytes:
                frame = encode(self._too_large(message, len(frame)))
            await self._socket.send_multipart([peer, request_id, frame])
        if self._service.is_over:
            self._is_over.set()
        deadline = self._service.next_deadline()
        if deadline is not None and (self._armed is None or deadline < self._armed):
            self._deadline_moved.set()

    def _too_large(self, message: BaseModel, num_bytes: int) -> Refused:
        return Refused(
            code="too_large",
            message=f"{type(message).__name__} of {num_bytes} bytes is over the limit of "
            f"{self._max_frame_bytes}. Fix: raise broker.max_frame_mib",
        )

    # ---- images ----------------------------------------------------------------------------------
    async def _begin_image_read(
        self, tasks: asyncio.TaskGroup, peer: bytes, request_id: bytes, sha256: str
    ) -> None:
        if self._image_reads.locked():
            refused = Refused(code="too_many", message="too many image reads at once: ask again")
            await self._deliver([Outgoing(peer, request_id, refused)])
            return
        await self._image_reads.acquire()
        tasks.create_task(self._read_image(peer, request_id, sha256), name="image")

    async def _read_image(self, peer: bytes, request_id: bytes, sha256: str) -> None:
        try:
            content = await asyncio.to_thread(self._shelf.read, sha256)
            reply: BaseModel = ImageBytes(content=content)
        except Refusal as refusal:
            reply = Refused(code=refusal.code, message=str(refusal))
        finally:
            self._image_reads.release()
        await self._deliver([Outgoing(peer, request_id, reply)])

    # ---- time ------------------------------------------------------------------------------------
    async def _keep_time(self) -> None:
        """Tick at the next deadline, and only then."""
        while True:
            self._deadline_moved.clear()
            self._armed = self._service.next_deadline()
            wait_s = None if self._armed is None else max(0.0, self._armed - time.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    await self._deadline_moved.wait()
            except TimeoutError:
                await self._deliver(self._service.tick(time.monotonic()))

    async def _finish_on(self, stop: asyncio.Event, drain_s: float) -> None:
        await stop.wait()
        await self._deliver(self._service.finish("the broker was told to stop", time.monotonic()))
        try:
            async with asyncio.timeout(drain_s):
                await self._is_over.wait()
        except TimeoutError:
            left = ", ".join(member.member_id for member in self._service.membership.all())
            logger.warning("stopping although these have not left: %s", left)
            self._is_over.set()


def loopback_only(address: str) -> str:
    """The address to bind. Raises ConfigError off loopback: there is no authentication yet."""
    match = _LOOPBACK.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ConfigError(
            f"broker.address = {address!r}: the broker listens on loopback only, because it has no "
            "authentication (CURVE) yet. Fix: tcp://127.0.0.1:PORT"
        )
    return address.replace("localhost", "127.0.0.1")
