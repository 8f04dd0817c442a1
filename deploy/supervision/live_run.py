"""One run while it lives: Ray, supervisor, the view in the terminal, the launcher's API."""

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

from broker.net.transport import zmq_link
from broker.protocol import Role
from common import lifecycle
from common.config import RunConfig
from common.errors import ConfigError, VisionOpdError
from common.full_disk import WAITS_FOR_ROOM
from common.kept_reading import keep
from common.log_files import LogStream, RotatingLog
from common.logs import LineHandler, log_formatter
from common.reading import Reading
from deploy.cluster.clusters import nodes_from_ray, this_machine
from deploy.cluster.fit import fit
from deploy.cluster.nodes import Node
from deploy.cluster.pools import pools_of
from deploy.exit_codes import ExitCode, code_of_end, code_of_error
from deploy.planning.micro_batches import sized_here
from deploy.scale import scale_supervisor
from deploy.showing.kept import kept_text
from deploy.showing.observations import Observations
from deploy.showing.outcome import read_summary, show_outcome
from deploy.showing.situation import RunWaits
from deploy.showing.terminal import show_progress
from deploy.supervision.begun_run import Footprint, begun
from deploy.supervision.launcher_api import listening
from deploy.supervision.placement import Placement
from deploy.supervision.ray_connection import connected_ray
from deploy.supervision.room import RoomWatch
from deploy.supervision.supervisor import Supervisor

logger = logging.getLogger(__name__)
_LOG_BYTES, _LOG_FILES = 32 * 2**20, 4  # of launch.log


async def live_run(
    config: RunConfig, now: time.struct_time, stop: asyncio.Event, reading: Reading | None = None
) -> int:
    """From Ray's start to the report; the launcher's exit code.

    Args:
        config: checked (`deploy.preflight`).
        now: when the launcher was started.
        stop: set by the first signal; the run then drains, and a second one ends it at once.
        reading: of data.train, so that the broker need not look at all pictures again.
    """
    at_once = asyncio.Event()
    try:
        print("starting Ray and the processes ...", flush=True)
        async with connected_ray(config.cluster.address):
            lifecycle.set_on_signals(stop, at_once)  # Ray has taken the signals
            _check_room(config)
            config = _with_sized_batches(config)
            if stop.is_set():
                print("stopped before the run began: nothing was written", flush=True)
                return ExitCode.INTERRUPTED
            with begun(config, now) as (config, folder, footprint):
                print(f"run folder: {folder}", flush=True)
                try:
                    log_to(folder / "logs" / "launch.log")
                    if reading is not None:
                        keep(folder, reading)
                    return await _in_folder(config, folder, footprint, stop, at_once)
                except OSError:  # of the launcher's own files: a full disk
                    if not footprint.has_new_checkpoints:
                        footprint.restore(keeps_logs=True)
                    raise
    except VisionOpdError as error:
        return _tell_failure(error, has_trained=False)


async def _in_folder(
    config: RunConfig,
    folder: Path,
    footprint: Footprint,
    stop: asyncio.Event,
    at_once: asyncio.Event,
) -> ExitCode:
    placement = Placement(reserves_cpus=config.cluster.address is not None)
    try:
        supervisor = Supervisor(config, folder, placement.place, _report, at_once)
        is_complete = await _watched(config, supervisor, folder, stop)
    except VisionOpdError as error:
        has_trained = supervisor.has_trained or footprint.has_new_checkpoints
        code = _tell_failure(error, has_trained)
        if code is ExitCode.REFUSED:
            footprint.restore(keeps_logs=True)
        else:
            print(kept_text(folder, is_complete=False), file=sys.stderr, flush=True)
        return code
    finally:
        placement.close()
    if at_once.is_set():
        print("\nended at once: what was under way is generated again", flush=True)
    else:
        _show_outcome(folder)
    print(kept_text(folder, is_complete), flush=True)
    return code_of_end(is_complete, read_summary(folder))


def _tell_failure(error: VisionOpdError, has_trained: bool) -> ExitCode:
    code = code_of_error(error, has_trained)
    what = "refused" if code is ExitCode.REFUSED else "run failed"
    print(f"\n{what}: {error}", file=sys.stderr, flush=True)
    return code


def _show_outcome(folder: Path) -> None:
    try:
        show_outcome(folder)
    except OSError as error:
        _report(
            f"the report cannot be written: {error.strerror}. Fix: free space, then "
            f"python -m deploy.showing.report {folder}"
        )


def _with_sized_batches(config: RunConfig) -> RunConfig:
    """The run's own file then has their size, so that it goes on with the same one."""

    def nodes() -> list[Node]:
        import ray

        if config.cluster.address is None:
            return [this_machine()]  # which tells its GPUs' memory as well
        return nodes_from_ray(ray.nodes())

    sized = sized_here(config, nodes)
    if sized != config:
        print(f"learner.micro_batch_tokens = {sized.learner.micro_batch_tokens}, by the GPUs' room")
    return sized


def _check_room(config: RunConfig) -> None:
    """Refuse a machine that is too small, with a ConfigError; a cluster may still grow."""
    import ray

    is_own_machine = config.cluster.address is None
    try:
        fit(pools_of(config, not is_own_machine), nodes_from_ray(ray.nodes()))
    except ConfigError as error:
        if is_own_machine:
            raise
        _report(f"no room for all of it yet: {error}")


async def _watched(
    config: RunConfig, supervisor: Supervisor, folder: Path, stop: asyncio.Event
) -> bool:
    """The run, with a view and the launcher's API beside it."""
    began = time.monotonic()
    waits = RunWaits(config, supervisor, stop)

    def status() -> dict[str, Any]:
        seen = supervisor.status
        return {
            "broker": None if seen is None else seen.model_dump_json(),
            "elapsed_s": time.monotonic() - began,
            "waits": list(waits(0.0).values()),
        }

    def learner_waits() -> bool:
        members = () if supervisor.status is None else supervisor.status.members
        return any(member.gauges.get(WAITS_FOR_ROOM) for member in members)

    views = (supervisor, waits, Observations(folder / "observations.jsonl"))
    link = zmq_link(config.broker, Role.OBSERVER)
    async with listening(folder, status, lambda wish: scale_supervisor(supervisor, wish)):
        view = asyncio.create_task(
            show_progress(supervisor.broker_address, *views, link=link, waits=waits, folder=folder)
        )
        room = asyncio.create_task(RoomWatch(folder, _report, learner_waits).keep_looking())
        try:
            return await supervisor.run(stop)
        finally:
            room.cancel()
            view.cancel()
            (outcome,) = await asyncio.gather(view, return_exceptions=True)
            if not isinstance(outcome, asyncio.CancelledError):
                logger.error("the view ended before the run", exc_info=outcome)


def _report(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)


def log_to(path: Path) -> None:
    """The launcher's own log goes into the run folder: the terminal belongs to the view."""
    handler = LineHandler(LogStream(RotatingLog(path, _LOG_BYTES, _LOG_FILES)))
    handler.setFormatter(log_formatter("launch"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
