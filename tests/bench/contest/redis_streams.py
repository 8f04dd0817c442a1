"""Redis streams under load: a server of our own, one entry a trajectory, one consumer group.

What favours Redis: its payloads are ready-made bytes that nobody checks or decodes, it bounds
nothing, forgets nothing and never rewrites its log, and knows neither leases nor staleness.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from common.lifecycle import stop_with_parent
from tests.bench.contest.load import Load

_STREAM, _GROUP, _CONSUMER, _FIELD = "trajectories", "learner", "learner-0", "t"
_BLOCK_MS = 30_000
_START_TIMEOUT_S = 10.0


class RedisStreams:
    def missing(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "no redis-server here. Fix: apt-get install redis-server"
        if importlib.util.find_spec("redis") is None:
            return "no redis client here. Fix: .venv/bin/pip install -e '.[bench]'"
        return None

    @contextlib.contextmanager
    def server(self, load: Load) -> Iterator[str]:
        port = _free_port()
        with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
            process = subprocess.Popen(
                _command(port, folder),
                stdout=subprocess.DEVNULL,
                preexec_fn=stop_with_parent,
            )
            try:
                _make_stream(port)
                yield str(port)
            finally:
                process.kill()
                process.wait()

    @contextlib.asynccontextmanager
    async def producer(self, address: str, load: Load) -> AsyncIterator["StreamWriter"]:
        import redis.asyncio

        async with redis.asyncio.Redis(port=int(address)) as client:
            yield StreamWriter(client, load)

    @contextlib.asynccontextmanager
    async def consumer(self, address: str, load: Load) -> AsyncIterator["StreamReader"]:
        import redis.asyncio

        async with redis.asyncio.Redis(port=int(address)) as client:
            yield StreamReader(client, load)


class StreamWriter:
    def __init__(self, client: Any, load: Load) -> None:
        self._client = client
        self._group = [
            os.urandom(load.trajectory_bytes) for _ in range(load.trajectories_per_group)
        ]

    async def permit(self) -> None:
        pass

    async def submit(self, permit: None) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for payload in self._group:
                pipeline.xadd(_STREAM, {_FIELD: payload})
            await pipeline.execute()


class StreamReader:
    def __init__(self, client: Any, load: Load) -> None:
        self._client = client
        self._batch = load.groups_per_step * load.trajectories_per_group
        self._ids: list[bytes] = []

    async def take(self) -> None:
        self._ids = []
        while len(self._ids) < self._batch:
            found = await self._client.xreadgroup(
                _GROUP,
                _CONSUMER,
                {_STREAM: ">"},
                count=self._batch - len(self._ids),
                block=_BLOCK_MS,
            )
            assert found, "the producer makes too little"
            self._ids += [entry_id for entry_id, _ in found[0][1]]

    async def release(self) -> None:
        await self._client.xack(_STREAM, _GROUP, *self._ids)


def _command(port: int, folder: str) -> list[str]:
    return [
        *("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
        *("--appendonly", "yes", "--appendfsync", "everysec"),
        *("--auto-aof-rewrite-percentage", "0", "--save", ""),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_stream(port: int) -> None:
    import redis

    deadline = time.monotonic() + _START_TIMEOUT_S
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.xgroup_create(_STREAM, _GROUP, mkstream=True)
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
