"""`ray.util.queue.Queue` under load: one item a trajectory, in an actor on a local Ray of our own.

Batched: a group or a batch is one call (the *_nowait_batch calls do not wait, so they are tried
again until there is room, or a batch). Otherwise: put and get of single items, all at once.

What favours Ray: its payloads are ready-made bytes that nobody checks or decodes, nothing is
written to disk, and there are neither leases, staleness nor acknowledgements.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.contest.children import serving
from tests.bench.contest.load import Load

_NAMESPACE, _QUEUE = "bench", "queue"
_OBJECT_STORE_BYTES = 500 * 2**20
_RETRY_S = 0.001


@dataclass(frozen=True)
class RayQueue:
    is_batched: bool

    def missing(self) -> str | None:
        if importlib.util.find_spec("ray") is None:
            return "no Ray here. Fix: .venv/bin/pip install -e '.[cluster]'"
        return None

    @contextlib.contextmanager
    def server(self, load: Load) -> Iterator[str]:
        with (
            tempfile.TemporaryDirectory(prefix="bench-ray-", dir="/tmp") as folder,
            serving(_serve, folder, load) as address,
        ):
            yield address

    @contextlib.asynccontextmanager
    async def producer(self, address: str, load: Load) -> AsyncIterator["QueueWriter"]:
        with _connected(address=address):
            yield QueueWriter(_queue(load), load, self.is_batched)

    @contextlib.asynccontextmanager
    async def consumer(self, address: str, load: Load) -> AsyncIterator["QueueReader"]:
        with _connected(address=address):
            yield QueueReader(_queue(load), load, self.is_batched)


class QueueWriter:
    def __init__(self, queue: Any, load: Load, is_batched: bool) -> None:
        self._queue = queue
        self._is_batched = is_batched
        size = load.trajectory_bytes
        self._group = [os.urandom(size) for _ in range(load.trajectories_per_group)]

    async def permit(self) -> None:
        pass

    async def submit(self, permit: None) -> None:
        from ray.util.queue import Full

        if self._is_batched:
            await _until_done(Full, self._queue.actor.put_nowait_batch, self._group)
        else:
            await asyncio.gather(*(self._queue.put_async(item) for item in self._group))


class QueueReader:
    def __init__(self, queue: Any, load: Load, is_batched: bool) -> None:
        self._queue = queue
        self._is_batched = is_batched
        self._num_items = load.groups_per_step * load.trajectories_per_group

    async def take(self) -> None:
        from ray.util.queue import Empty

        if self._is_batched:
            await _until_done(Empty, self._queue.actor.get_nowait_batch, self._num_items)
        else:
            await asyncio.gather(*(self._queue.get_async() for _ in range(self._num_items)))

    async def release(self) -> None:
        pass


async def _until_done(refusal: type[Exception], method: Any, argument: Any) -> None:
    while True:
        try:
            await method.remote(argument)
            return
        except refusal:
            await asyncio.sleep(_RETRY_S)


def _queue(load: Load) -> Any:
    """The one queue of this Ray; whoever comes first makes it."""
    from ray.util.queue import Queue

    options = {"name": _QUEUE, "get_if_exists": True, "num_cpus": 0}
    return Queue(load.slots * load.trajectories_per_group, options)


@contextlib.contextmanager
def _connected(**options: Any) -> Iterator[None]:
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
        "0"  # loopback: deploy/supervision/ray_connection.py
    )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"  # as a local Ray sets it, for those who join it too
    import ray

    if not ray.is_initialized():
        ray.init(
            namespace=_NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            **options,
        )
    yield  # this process stays connected: that takes seconds


def _serve(say_address: Callable[[str], None], folder: str, load: Load) -> None:
    with _connected(
        address="local",
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=folder,
    ):
        import ray

        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # after Ray's own
        queue = _queue(load)
        queue.size()
        say_address(ray.get_runtime_context().gcs_address)
        stop.wait()
        ray.shutdown()
