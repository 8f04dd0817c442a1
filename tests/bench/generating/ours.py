"""Our rollout process, attached to a running engine, with a member as rollout.main makes it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from common import lifecycle
from common.config import RunConfig
from rollout.pool import ServerPool
from rollout.rollout_server import RolloutServer, RunningEngine
from tests.bench.generating.work import FullLength


def roll_out(pipe: Any, config: RunConfig) -> None:
    """Says "ready", begins to lease at the first word; at the second it says its CPU s.

    It takes weights from the start on. A member leases when it has a renderer: the word brings it.
    """

    async def serve(stop: asyncio.Event) -> None:
        loaded = await asyncio.to_thread(FullLength, config.model.path)
        renderer: asyncio.Future[FullLength] = asyncio.get_running_loop().create_future()
        member = RolloutServer(
            config,
            "rollout-0",
            lambda: _attached(config),
            ServerPool(),
            renderer,
            stop,
            asyncio.Event(),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(member.live())
            pipe.send("ready")
            await asyncio.to_thread(pipe.recv)
            cpu_s = time.process_time()
            renderer.set_result(loaded)
            await asyncio.to_thread(pipe.recv)
            pipe.send(time.process_time() - cpu_s)

    lifecycle.run(serve)


@contextlib.asynccontextmanager
async def _attached(config: RunConfig) -> AsyncIterator[RunningEngine]:
    yield RunningEngine(config.rollout.engine_urls[0])
