"""`python -m rollout.main --config FILE`: one rollout process, one engine or several.

RANK in the environment is its index among the rollout processes.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.spans import recorded

if TYPE_CHECKING:  # imported late at run time: --help answers at once
    from common.rendering import Renderer
    from rollout.rollout_server import RunningEngine

logger = logging.getLogger(__name__)


def main() -> None:
    config = load_or_exit(
        sys.argv[1:], "python -m rollout.main", "Generates groups of responses with one engine."
    )
    index = int(os.environ.get("RANK", "0"))
    from common.engines.keys import check_engine
    from common.engines.packages import check_server
    from common.errors import ConfigError, VisionOpdError, exit_code_of
    from common.lifecycle import run
    from common.logs import configure_logging
    from common.model_folder import with_local_models
    from rollout.rollout_server import first_error

    configure_logging(f"rollout-{index}")
    try:
        check_engine(config)
        check_server(config)
        config = with_local_models(config, has_weights=not config.rollout.engine_urls)
    except ConfigError as refusal:
        exit_with(refusal)
    try:
        run(lambda stop: serve(config, index, stop))
    except BaseExceptionGroup as errors:
        error = first_error(errors)
        if not isinstance(error, VisionOpdError):
            raise
        logger.error("%s", error)
        raise SystemExit(exit_code_of(error)) from None


async def serve(config: RunConfig, index: int, stop: asyncio.Event) -> None:
    """Run all that one rollout process does."""
    with recorded(config.run.folder, f"rollout-{index}", config.run.spans_mib):
        await _serve(config, index, stop)


async def _serve(config: RunConfig, index: int, stop: asyncio.Event) -> None:
    from broker.net.transport import zmq_link
    from broker.protocol import Role
    from common.scrape.port import scrape_port
    from rollout.pool import ServerPool
    from rollout.rollout_server import RolloutServer
    from rollout.serving import by_server

    members: dict[str, RolloutServer] = {}

    def figures() -> dict[str, dict[str, float]]:
        return by_server({name: member.gauges() for name, member in members.items()})

    port = scrape_port(config, "rollout", f"rollout-{index}", figures)
    async with port, asyncio.TaskGroup() as tasks:
        # What is wrong with it shows before the engine starts.
        zmq_link(config.broker, Role.ROLLOUT)
        renderer = tasks.create_task(asyncio.to_thread(_load_renderer, config))
        pool, finished = ServerPool(), asyncio.Event()
        for member_id, started in _engines(config, index, stop).items():
            member = RolloutServer(config, member_id, started, pool, renderer, stop, finished)
            members[member_id] = member
            tasks.create_task(member.live(), name=member_id)


def _engines(config: RunConfig, index: int, stop: asyncio.Event) -> dict[str, Any]:
    """How each member of this process comes by its engine, by member id."""
    urls = config.rollout.engine_urls
    if not urls:
        return {f"rollout-{index}": partial(_own_engine, config, index, stop)}
    names = [
        f"rollout-{index}" + (f".{number}" if len(urls) > 1 else "") for number in range(len(urls))
    ]
    return {
        name: partial(_attached_engine, config, url, stop)
        for name, url in zip(names, urls, strict=True)
    }


@contextlib.asynccontextmanager
async def _own_engine(
    config: RunConfig, index: int, stop: asyncio.Event
) -> AsyncIterator["RunningEngine"]:
    from common.errors import EngineError
    from rollout.engine_process import started_engine
    from rollout.rollout_server import RunningEngine, first_error

    log_folder = (config.run.folder or Path.cwd()) / "logs"
    async with started_engine(config, index, log_folder, stop) as process:
        try:
            yield RunningEngine(process.url, process.watch, process.api_key)
        except BaseExceptionGroup as errors:
            is_engines = isinstance(first_error(errors), EngineError)
            death = await process.death() if is_engines else None
            if death is not None:
                raise death from errors
            raise


@contextlib.asynccontextmanager
async def _attached_engine(
    config: RunConfig, url: str, stop: asyncio.Event
) -> AsyncIterator["RunningEngine"]:
    """An engine that others have started, once it answers."""
    from common.engines.keys import configured_key
    from rollout.rollout_server import RunningEngine, wait_until_it_answers

    await wait_until_it_answers(config, url, stop)
    yield RunningEngine(url, api_key=configured_key(config))


def _load_renderer(config: RunConfig) -> "Renderer":
    from common.rendering import Renderer

    return Renderer(config.model.path, config.prompt)


if __name__ == "__main__":
    main()
