"""The learner's line to the broker: an asyncio thread that takes and prepares batches.

torch owns the main thread, asyncio this one; between them are one queue of prepared batches and
`call`, which carries out a request and waits for its answer. A batch is taken and rendered as soon
as the step before it is acknowledged, that is while the main thread pushes weights and writes
metrics. At most one batch waits. The first rank's first word to the broker is the step that
training goes on from: what came after it is undone.
"""

import asyncio
import concurrent.futures
import logging
import queue
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import uvloop

from broker.client import CALL_TIMEOUT_S, BrokerClient, heartbeat_forever
from broker.net.transport import zmq_link
from broker.protocol import DETAIL_LENGTH, Resumed, Role, Welcome
from common.config import RunConfig
from common.errors import BrokerUnavailable
from common.full_disk import WAITS_FOR_ROOM, waits_for_room
from common.kernels import Kernels, pushes_over_nccl
from common.scrape.port import scrape_port
from common.versions import versions
from learner.agreement import check_agreement
from learner.interrupt import Interrupted
from learner.ranks import ALONE, Ranks
from learner.views.inputs import PreparedBatch
from learner.views.preparation import Preparation

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_TAKE_WAIT_S = 5.0  # how long the broker may hold a request for a batch
_START_S = 90.0
_STOP_S = 10.0


class _End:
    """A mark in the queue: no batch follows."""


class Feed:
    """The learner's line to the broker; use it as a context manager.

    Args:
        preparation: what becomes of a taken batch; runs in a worker thread of its own.
        step: that training goes on from; 0 means from the start.
        ranks: this rank takes its share of each batch. Rank 0 must be in its feed before the
            others start theirs.
        request_timeout_s: seconds until a request is sent again; after some tries it fails.
        kernels: in force here, which the broker is told.
    """

    def __init__(
        self,
        config: RunConfig,
        address: str,
        member_id: str,
        preparation: Preparation,
        step: int = 0,
        request_timeout_s: float = 10.0,
        ranks: Ranks = ALONE,
        kernels: Kernels | None = None,
    ) -> None:
        self._config = config
        self._address = address
        self._member_id = member_id
        self._preparation = preparation
        self._step = step
        self._request_timeout_s = request_timeout_s
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self._versions = versions()
        self._details = {"host": socket.gethostname()}
        if kernels is not None:
            self._details["kernels"] = str(kernels)[:DETAIL_LENGTH]
            if kernels.nccl and pushes_over_nccl(config, on_gpu=True):
                self._versions["nccl"] = kernels.nccl
        self._gauges: dict[str, float] = {}
        self._figures: dict[str, float] = {}
        # SimpleQueue: `interrupt` is called by a signal handler, which may break into a get().
        self._queue: queue.SimpleQueue[PreparedBatch | BaseException | _End] = queue.SimpleQueue()
        self._begun: set[concurrent.futures.Future[Any]] = set()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._started: concurrent.futures.Future[tuple[Welcome, Resumed | None]]
        self._started = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="feed")
        self.is_interrupted = False
        self._has_ended = False  # the broker said so, or the line to it broke
        self._is_finishing = False

    def __enter__(self) -> "Feed":
        self._thread.start()
        try:
            self.welcome, self._resumed = self._started.result(_START_S)
        except BaseException:
            self._thread.join(_STOP_S)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel_calls()
        for future in list(self._begun):
            future.cancel()
        if self._thread.is_alive():
            self._post(lambda: self._stopping.set())
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            logger.error("the broker thread did not end within %.0f s", _STOP_S)

    # ---- main thread -----------------------------------------------------------------------------
    def next_batch(self, timeout_s: float) -> PreparedBatch | None:
        """The next batch; None when the data is used up.

        Raises:
            TimeoutError: none came within `timeout_s`.
            Interrupted: `interrupt` was called, or the broker says that the run is over.
            BrokerUnavailable, ProtocolError: the line to the broker broke.
        """
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no batch within {timeout_s:.0f} s") from None
        if isinstance(item, _End):
            return None
        if isinstance(item, BaseException):
            self._queue.put(item)  # the next call raises it, too
            raise item
        return item

    def call(
        self, request: Callable[[BrokerClient], Awaitable[Answer]], timeout_s: float
    ) -> Answer:
        """Carry out a request on the broker's thread, from any other thread.

        Raises:
            BrokerUnavailable: no answer within `timeout_s`, or the line is closed.
            Interrupted: `cancel_calls` was called meanwhile.
        """

        async def carry_out() -> Answer:
            async with asyncio.timeout(timeout_s):
                return await request(self._broker)

        coroutine = carry_out()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise BrokerUnavailable("the line to the broker is closed") from error
        self._calls.add(future)
        try:
            return future.result(timeout_s + _STOP_S)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"no answer from the broker at {self._address} within {timeout_s:.0f} s"
            ) from error
        except concurrent.futures.CancelledError:
            raise Interrupted("the request was cancelled") from None
        finally:
            self._calls.discard(future)

    def begin(
        self, request: Callable[[BrokerClient], Awaitable[Answer]]
    ) -> "concurrent.futures.Future[Answer]":
        """Carry out a request on the broker's thread and wait for nothing; it ends by itself.

        The future is cancelled when the line is closed.
        """

        async def carry_out() -> Answer:
            return await request(self._broker)

        coroutine = carry_out()
        future: concurrent.futures.Future[Answer]
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            future = concurrent.futures.Future()
            future.set_exception(BrokerUnavailable("the line to the broker is closed"))
            return future
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    @property
    def history(self) -> int:
        """The broker's number for this continuation of the run; known to rank 0's feed."""
        assert self._resumed is not None, "only rank 0 resumes"
        return self._resumed.history

    def acknowledge(self, batch: PreparedBatch) -> None:
        """Tell the broker that the step is trained, and let the next batch be taken.

        Returns when all ranks have said so.
        """

        async def acknowledge(broker: BrokerClient) -> None:
            answer = await broker.ack(batch.step, batch.refused, self._rank)
            while not answer.is_complete:
                answer = await broker.ack(batch.step, batch.refused, self._rank, _TAKE_WAIT_S)
            self._steps.put_nowait(batch.step + 1)

        self.call(acknowledge, self.request_timeout_s)

    @property
    def is_over(self) -> bool:
        """Whether there is no use in going on: `next_batch` says why."""
        return self.is_interrupted or self._has_ended

    def expect_end(self) -> None:
        """Take the end of the run for no interruption: this learner is about to declare it."""
        self._is_finishing = True

    def interrupt(self) -> None:
        """Make the current or next `next_batch` raise Interrupted. Safe in a signal handler."""
        self.is_interrupted = True
        self._queue.put(Interrupted())

    def cancel_calls(self) -> None:
        """End every `call` that waits in another thread."""
        for future in list(self._calls):
            future.cancel()

    def set_gauges(self, gauges: dict[str, float]) -> None:
        """Set what the next heartbeats tell; the mapping must not change afterwards."""
        self._gauges = gauges

    def set_figures(self, figures: dict[str, float]) -> None:
        """Set what Prometheus is told; the mapping must not change afterwards."""
        self._figures = figures

    @property
    def request_timeout_s(self) -> float:
        """Seconds; longer than the client's own tries take, and its patience with a full disk."""
        return CALL_TIMEOUT_S

    # ---- broker's thread -------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # the boundary of this thread: the main one raises it
            cause = _first(error)
            if not self._started.done():
                self._started.set_exception(cause)
            self._has_ended = True
            self._queue.put(cause)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._steps: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        self._steps.put_nowait(self._step + 1)
        limit = self._config.broker.max_frame_mib * 2**20
        port = scrape_port(self._config, "learner", self._member_id, lambda: self._figures)
        client = BrokerClient(
            self._address,
            self._member_id,
            Role.LEARNER,
            details=self._details,
            versions=self._versions,
            request_timeout_s=self._request_timeout_s,
            max_frame_bytes=limit,
            link=zmq_link(self._config.broker, Role.LEARNER),
        )
        async with client as broker, port:
            self._broker = broker
            check_agreement(broker.welcome, self._config)
            resumed = await broker.resume(self._step) if self._rank == 0 else None
            self._started.set_result((broker.welcome, resumed))
            finished = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._take_batches(broker), name="take"),
                    tasks.create_task(self._heartbeats(broker, finished), name="heartbeat"),
                    tasks.create_task(self._notice_end(finished), name="end"),
                ]
                await self._stopping.wait()
                for task in work:
                    task.cancel()
            async with asyncio.timeout(_STOP_S / 2):
                await broker.goodbye()

    async def _take_batches(self, broker: BrokerClient) -> None:
        while True:
            step = await self._steps.get()
            batch = await broker.take(step, _TAKE_WAIT_S, self._rank, self._world_size)
            while not batch.groups and not batch.exhausted:
                batch = await broker.take(step, _TAKE_WAIT_S, self._rank, self._world_size)
            if batch.exhausted:
                self._queue.put(_End())
                return
            prepared = await asyncio.to_thread(self._preparation.prepare, step, batch.groups)
            self._queue.put(prepared)

    async def _heartbeats(self, broker: BrokerClient, finished: asyncio.Event) -> None:
        interval_s = min(1.0, broker.welcome.heartbeat_s)
        await heartbeat_forever(broker, self._told_gauges, interval_s, finished)

    def _told_gauges(self) -> dict[str, float]:
        waits = {WAITS_FOR_ROOM: 1.0} if waits_for_room() else {}
        return {**self._gauges, **waits}

    async def _notice_end(self, finished: asyncio.Event) -> None:
        """Interrupt when the run is ended from outside; after `expect_end` the queue is unread."""
        await finished.wait()
        self._has_ended = not self._is_finishing
        self._queue.put(Interrupted("the broker says that the run is over"))

    def _post(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except (RuntimeError, AttributeError):
            logger.debug("the broker thread has ended already")


def _first(error: BaseException) -> BaseException:
    """The first real error inside the error of a task group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
