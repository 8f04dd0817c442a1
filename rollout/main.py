"""`python -m rollout.main --config FILE`: one rollout process, one engine.

RANK in the environment is its index among the rollout processes.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import RunConfig
from common.config_cli import load_or_exit

if TYPE_CHECKING:  # imported late at run time: --help answers at once
    from common.rendering import Renderer
    from rollout.engine import Engine
    from rollout.engine_process import EngineProcess

logger = logging.getLogger(__name__)


def main() -> None:
    config = load_or_exit(
        sys.argv[1:], "python -m rollout.main", "Generates groups of responses with one engine."
    )
    index = int(os.environ.get("RANK", "0"))
    from common.errors import VisionOpdError
    from common.lifecycle import run
    from common.logs import configure_logging

    configure_logging(f"rollout-{index}")
    try:
        run(lambda stop: serve(config, index, stop))
    except BaseExceptionGroup as errors:
        error = _first(errors)
        if not isinstance(error, VisionOpdError):
            raise
        logger.error("%s", error)
        raise SystemExit(1) from None


async def serve(config: RunConfig, index: int, stop: asyncio.Event) -> None:
    """Everything that one rollout process does."""
    from broker.transport import zmq_link

    async with asyncio.TaskGroup() as tasks:
        zmq_link(config.broker)  # what is wrong with it shows now, not after the engine's start
        loading = tasks.create_task(asyncio.to_thread(_load_renderer, config.model.path))
        async with _engine(config, index, stop) as (url, process):
            if process is not None:
                watch = tasks.create_task(process.watch(), name="engine")
            renderer = await loading
            if not stop.is_set():
                await work(config, f"rollout-{index}", url, renderer, stop)
            if process is not None:
                watch.cancel()


async def work(
    config: RunConfig, member_id: str, url: str, renderer: "Renderer", stop: asyncio.Event
) -> None:
    """Membership of the broker, from hello to goodbye."""
    from broker.client import BrokerClient, heartbeat_forever
    from broker.protocol import Role
    from broker.transport import zmq_link
    from rollout.http_engine import HttpEngine
    from rollout.serving import Figures, Serving
    from rollout.weights import WeightReceiver, follow_weights
    from rollout.worker import RolloutWorker

    finished, serving, figures = asyncio.Event(), Serving(), Figures()
    beat_s = min(2.0, config.broker.member_timeout_s / 4)
    engine = HttpEngine(
        url,
        request_timeout_s=config.rollout.request_timeout_s,
        control_timeout_s=config.weights.timeout_s,
    )
    broker = BrokerClient(
        config.broker.address,
        member_id,
        Role.ROLLOUT,
        details={"host": socket.gethostname(), "pid": str(os.getpid()), "engine": url},
        request_timeout_s=config.broker.member_timeout_s / 4,
        max_frame_bytes=config.broker.max_frame_mib * 2**20,
        link=zmq_link(config.broker),
    )
    async with engine, broker, asyncio.TaskGroup() as tasks:
        receiver = WeightReceiver(engine, member_id)
        weights = tasks.create_task(follow_weights(broker, receiver, serving, finished))
        heartbeats = tasks.create_task(
            heartbeat_forever(broker, lambda: figures.take(serving.version), beat_s, finished)
        )
        liveness = tasks.create_task(ask_forever(engine, config.broker.member_timeout_s / 4))
        worker = RolloutWorker(config, broker, engine, serving, renderer, figures)
        await worker.run_until(stop, finished, config.cluster.drain_s)
        for task in (weights, heartbeats, liveness):
            task.cancel()
        await broker.goodbye()
        logger.info("ended: %s", "the run is finished" if finished.is_set() else "stopped")


async def ask_forever(engine: "Engine", interval_s: float) -> None:
    """Notices an engine that is gone or hangs, also one that is not our child. Raises EngineError.

    It asks for the version, which an engine answers while paused; /health it would not.
    """
    while True:
        await asyncio.sleep(interval_s)
        await engine.version()


def _load_renderer(model_path: str) -> "Renderer":
    from common.errors import ConfigError
    from common.rendering import Renderer

    try:
        return Renderer(model_path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path = {model_path!r} has no usable processor: {reason} "
            "Fix: name a Hugging Face folder with tokenizer, processor and chat template"
        ) from error


@contextlib.asynccontextmanager
async def _engine(
    config: RunConfig, index: int, stop: asyncio.Event
) -> AsyncIterator[tuple[str, "EngineProcess | None"]]:
    """The engine's URL, and its process if it is ours."""
    from rollout.engine_process import started_engine

    if config.rollout.engine_url is not None:
        yield config.rollout.engine_url, None
        return
    log_folder = (config.run.folder or Path.cwd()) / "logs"
    async with started_engine(config, index, log_folder, stop) as process:
        yield process.url, process


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a tree of groups: the others follow from it."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
