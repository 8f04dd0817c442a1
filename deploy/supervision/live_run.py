"""One run while it lives: Ray, supervisor, the view in the terminal, the ear for deploy.scale."""

import asyncio
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.protocol import Role
from broker.transport import zmq_link
from common import lifecycle
from common.config import RunConfig
from common.errors import ConfigError, VisionOpdError
from deploy.cluster.clusters import nodes_from_ray
from deploy.cluster.fit import fit
from deploy.cluster.pools import pools_of
from deploy.scale import scale_supervisor
from deploy.showing.observations import Observations
from deploy.showing.outcome import show_outcome
from deploy.showing.terminal import show_progress
from deploy.supervision.control import listening
from deploy.supervision.placement import Placement
from deploy.supervision.ray_connection import connected_ray
from deploy.supervision.supervisor import Supervisor

logger = logging.getLogger(__name__)
INTERRUPTED = 130  # exit code, as of a shell


async def live_run(config: RunConfig, folder: Path, stop: asyncio.Event) -> int:
    """From Ray's start to the report; the launcher's exit code."""
    address = config.cluster.address
    try:
        link = zmq_link(config.broker, Role.OBSERVER)
        print("starting Ray and the processes ...", flush=True)
        async with connected_ray(address):
            lifecycle.set_on_signals(stop)  # Ray has taken the signals
            _check_room(config)
            placement = Placement(reserves_cpus=address is not None)
            try:
                supervisor = Supervisor(config, folder, placement.place, _report)
                is_complete = await _watched(supervisor, folder, link, stop)
            finally:
                placement.close()
    except VisionOpdError as error:
        print(f"\nrun failed: {error}", file=sys.stderr, flush=True)
        return 1
    show_outcome(folder)
    return 0 if is_complete else INTERRUPTED


def _check_room(config: RunConfig) -> None:
    """Raises ConfigError where this machine is too small; a cluster may still grow."""
    import ray

    is_own_machine = config.cluster.address is None
    pools = pools_of(config)
    if is_own_machine:
        pools = [replace(pool, cpus=0.0) for pool in pools]
    try:
        fit(pools, nodes_from_ray(ray.nodes()))
    except ConfigError as error:
        if is_own_machine:
            raise
        _report(f"no room for all of it yet: {error}")


async def _watched(supervisor: Supervisor, folder: Path, link: Any, stop: asyncio.Event) -> bool:
    """The run, with a view and an ear beside it."""
    began = time.monotonic()

    def status() -> dict[str, Any]:
        seen = supervisor.status
        return {
            "broker": None if seen is None else seen.model_dump_json(),
            "elapsed_s": time.monotonic() - began,
        }

    views = (supervisor, Observations(folder / "observations.jsonl"))
    async with listening(folder, status, lambda wish: scale_supervisor(supervisor, wish)):
        view = asyncio.create_task(show_progress(supervisor.broker_address, *views, link=link))
        try:
            return await supervisor.run(stop)
        finally:
            view.cancel()
            (outcome,) = await asyncio.gather(view, return_exceptions=True)
            if not isinstance(outcome, asyncio.CancelledError):
                logger.error("the view ended before the run", exc_info=outcome)


def _report(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)
