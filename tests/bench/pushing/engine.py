"""An engine server process of the embedded engine that has weights and nothing to generate."""

import asyncio
from typing import Any

import torch
from aiohttp import web

from common import lifecycle
from common.http_gate import Gate
from rollout.embedded.requests import VocabularyFacts
from rollout.embedded.scheduler import Scheduler
from rollout.embedded.server import EngineServer
from rollout.embedded.update_session import UpdateSession
from tests.bench.pushing.weights import Weights


def serve_engine(pipe: Any, mib: int, timeout_s: float) -> None:
    """Says its URL, then serves until SIGTERM."""
    torch.set_num_threads(1)
    lifecycle.run(lambda stop: _serve(pipe, mib, timeout_s, stop))


async def _serve(pipe: Any, mib: int, timeout_s: float, stop: asyncio.Event) -> None:
    model = Weights(mib)
    scheduler = Scheduler(model, threads=1)
    server = EngineServer(
        model_path="none",
        scheduler=scheduler,
        prompts=None,  # type: ignore[arg-type]  # nobody asks it to generate
        updates=UpdateSession(model, scheduler, timeout_s),
        chat=None,
        vocabulary=VocabularyFacts(0, frozenset()),
        facts={"version": "embedded", "model_type": "none", "device": "cpu"},
    )
    runner = web.AppRunner(
        server.application(Gate("127.0.0.1", None)), access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    scheduler.start()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await stop.wait()
    finally:
        scheduler.close()
        await runner.cleanup()
