"""One run from start to end: python -m deploy.launch [--config FILE] [--section.key value ...]

Without arguments: the quickstart. Ray places the processes, a view shows how they do, and the run
folder holds a report at the end. Ctrl-C or SIGTERM drains; a second one ends at once. A run that
ended early goes on with --config RUN/config.toml --run.resume true. --dry-run, --slurm and
--kuberay show or submit a run instead: see `deploy.options`.
"""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import ConfigError, VisionOpdError
from common.full_disk import is_full
from common.model_folder import with_pinned_models
from common.output import ends_with_its_reader, go_on_without_readers
from deploy.cluster.roles import ROOT
from deploy.options import (
    HELP,
    Options,
    absolute_paths,
    pinned_revisions,
    run_folder,
    take_options,
    with_address,
)

QUICKSTART = ROOT / "deploy" / "configs" / "quickstart.toml"
_LOG_BYTES, _LOG_FILES = 32 * 2**20, 4  # of launch.log
PURPOSE = "Runs broker, rollout servers and learner; without arguments, the CPU quickstart."


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = take_options(sys.argv[1:] if argv is None else argv, QUICKSTART)
    except ConfigError as error:
        exit_with(error)
    config = load_or_exit(options.arguments, "deploy/launch_cluster.sh", f"{PURPOSE}\n\n{HELP}")
    try:
        config = with_address(config, options)
        if options.slurm:
            _slurm(config, options)
        elif options.kuberay:
            from deploy.batch import kuberay

            print(kuberay.manifest(config, absolute_paths(options.arguments)))
        elif options.dry_run:
            _dry_run(config, options)
        else:
            raise SystemExit(_launch(config))
    except ConfigError as error:
        exit_with(error)
    except VisionOpdError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if not is_full(error):
            raise
        where = error.filename or "a file of the run"
        exit_with(
            ConfigError(f"{where} cannot be written: {error.strerror}. Fix: free space there")
        )


def _launch(config: RunConfig) -> int:
    """Run to the end; the exit code."""
    from common import lifecycle
    from deploy.supervision.new_folder import with_folder_of_its_own
    from deploy.supervision.run_folder import open_run_folder, owned
    from deploy.supervision.trusted_folder import check_trusted

    go_on_without_readers()
    now = time.localtime()
    check_trusted(run_folder(config, now))
    _check_data(config)
    config = _pin_models(config)
    _set_up_sglang(config)
    config = with_folder_of_its_own(config, now)
    with owned(run_folder(config, now)):
        config, folder = open_run_folder(config, now)
        _log_to(folder / "logs" / "launch.log")
        print(f"run folder: {folder}", flush=True)
        exit_code = 0

        async def supervised(stop: asyncio.Event) -> None:
            from deploy.supervision.live_run import live_run

            nonlocal exit_code
            exit_code = await live_run(config, folder, stop)

        lifecycle.run(supervised)
        return exit_code


def _dry_run(config: RunConfig, options: Options) -> None:
    """On the described machines, on those of a Ray that runs, or on this one."""
    from deploy.cluster import clusters
    from deploy.cluster.dry_run import dry_run

    visible = None
    if options.cluster is not None:
        nodes = clusters.read_cluster(options.cluster)
    elif config.cluster.address is not None:
        nodes = clusters.ray_nodes(config.cluster.address)
    else:
        visible = clusters.visible_gpus()
        nodes = [clusters.this_machine()]
    folder = run_folder(config, time.localtime())
    is_here = options.cluster is None and config.cluster.address is None
    arguments = absolute_paths(options.arguments)
    dry_run(config, arguments, nodes, folder, reserves_cpus=not is_here, visible=visible)


def _slurm(config: RunConfig, options: Options) -> None:
    """Submit a job that launches this run, or print its script."""
    from deploy.batch import slurm
    from deploy.supervision.new_folder import with_folder_of_its_own
    from deploy.supervision.trusted_folder import check_trusted

    now = time.localtime()
    folder = run_folder(config, now)
    arguments = absolute_paths(options.arguments)
    if options.dry_run:
        run = config.run.model_copy(update={"folder": folder})
        print(slurm.batch_script(config.model_copy(update={"run": run}), arguments))
        return
    check_trusted(folder)
    _check_data(config)
    slurm.check_submission(config, folder)
    config = _pin_models(config)  # here: the job's machines may reach no hub
    arguments += pinned_revisions(config)
    config = with_folder_of_its_own(config, now)
    folder = run_folder(config, now)
    print(f"submitted job {slurm.submit(config, arguments, folder)}\nrun folder: {folder}")


def _check_data(config: RunConfig) -> None:
    """Make the quickstart's own world where it is asked for; name what is missing otherwise."""
    from deploy.quickstart.own import ensure_own_dataset

    if config.data.train is None:
        raise ConfigError("data.train is not set. Fix: --data.train FILE.parquet")
    ensure_own_dataset(config.data.train, report=lambda line: print(line, flush=True))
    for key, path in (("train", config.data.train), ("heldout", config.data.heldout)):
        if path is not None and not path.is_file():
            raise ConfigError(f"data.{key} = {str(path)!r}: no such file. Fix: name a Parquet file")


def _pin_models(config: RunConfig) -> RunConfig:
    """Models are here and can be trained, and the whole run uses the same commit of them."""
    config = with_pinned_models(config)
    for key, part in (("model", config.model), ("teacher", config.teacher)):
        if part.revision is not None:
            print(f"{key}: {part.path}, commit {part.revision}", flush=True)
    return config


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
    from common.log_files import LogStream, RotatingLog
    from common.logs import LineHandler, log_formatter

    handler = LineHandler(LogStream(RotatingLog(path, _LOG_BYTES, _LOG_FILES)))
    handler.setFormatter(log_formatter("launch"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
