"""One run from start to end: python -m deploy.launch [--config FILE] [--section.key value ...]

Without arguments: the quickstart. Ray places the processes, a view shows how they do, and the run
folder holds a report at the end. Ctrl-C or SIGTERM drains; a second one ends at once. A run that
ended early goes on with --config RUN/config.toml --run.resume true.
"""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import lifecycle
from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import ConfigError, VisionOpdError
from deploy.roles import ROOT
from deploy.run_folder import open_run_folder
from deploy.supervisor import Supervisor

QUICKSTART = ROOT / "deploy" / "configs" / "quickstart.toml"
PURPOSE = "Runs broker, rollout servers and learner; without arguments, the CPU quickstart."
logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not any(argument.partition("=")[0] == "--config" for argument in arguments):
        arguments = ["--config", str(QUICKSTART), *arguments]
    config = load_or_exit(arguments, "deploy/launch_cluster.sh", PURPOSE)
    try:
        _check_data(config)
        _set_up_sglang(config)
        config, folder = open_run_folder(config, time.localtime())
    except ConfigError as error:
        exit_with(error)
    _log_to(folder / "logs" / "launch.log")
    print(f"run folder: {folder}", flush=True)
    exit_code = 0

    async def supervised(stop: asyncio.Event) -> None:
        nonlocal exit_code
        exit_code = await _run(config, folder, stop)

    lifecycle.run(supervised)
    raise SystemExit(exit_code)


async def _run(config: RunConfig, folder: Path, stop: asyncio.Event) -> int:
    from broker.transport import zmq_link
    from deploy.observations import Observations
    from deploy.outcome import show_outcome
    from deploy.placement import connected_ray
    from deploy.terminal import show_progress

    try:
        link = zmq_link(config.broker)
        print("starting Ray and the processes ...", flush=True)
        async with connected_ray(config, folder / "logs") as placement:
            lifecycle.set_on_signals(stop)  # Ray has taken the signals
            supervisor = Supervisor(config, folder, placement.place, _report_failure)
            observations = Observations(folder / "observations.jsonl")
            view = asyncio.create_task(
                show_progress(supervisor.broker_address, observations, link=link)
            )
            try:
                is_complete = await supervisor.run(stop)
            finally:
                view.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await view
    except VisionOpdError as error:
        print(f"\nrun failed: {error}", file=sys.stderr, flush=True)
        return 1
    show_outcome(folder)
    return 0 if is_complete else 130


def _report_failure(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)


def _check_data(config: RunConfig) -> None:
    """Make the quickstart's own world where it is asked for; name what is missing otherwise."""
    from deploy.quickstart.own import ensure_own_dataset

    if config.data.train is None:
        raise ConfigError("data.train is not set. Fix: --data.train FILE.parquet")
    ensure_own_dataset(config.data.train, report=lambda line: print(line, flush=True))
    for key, path in (("train", config.data.train), ("heldout", config.data.heldout)):
        if path is not None and not path.is_file():
            raise ConfigError(f"data.{key} = {str(path)!r}: no such file. Fix: name a Parquet file")


def _set_up_sglang(config: RunConfig) -> None:
    """Makes SGLang's environment where this machine's servers need it; quick when it is there.

    Machines of a cluster that runs already are not ours to set up, and may not be like this one.
    """
    is_ours = config.sglang.python is None and config.cluster.address is None
    if config.rollout.engine != "sglang" or config.rollout.engine_urls or not is_ours:
        return
    if subprocess.run([ROOT / "deploy" / "setup.sh", "sglang"], check=False).returncode:
        raise ConfigError(
            'rollout.engine = "sglang": its environment could not be made, see above. Fix: mend '
            "that, or set sglang.python to the Python of one that has sglang==0.5.23"
        )


def _log_to(path: Path) -> None:
    """The launcher's own log goes into the run folder: the terminal belongs to the view."""
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s"
    )


if __name__ == "__main__":
    main()
