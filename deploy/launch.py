"""One run from start to end: python -m deploy.launch [--config FILE] [--section.key value ...]

Without arguments: the quickstart. Ray places the processes, a view shows how they do, and the run
folder holds a report at the end. Ctrl-C or SIGTERM drains; a second one ends at once. A run that
ended early goes on with --config RUN/config.toml --run.resume true. --dry-run, --slurm and
--kuberay show or submit a run instead: see `deploy.options`.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import ConfigError, DataError, VisionOpdError
from common.full_disk import is_full
from common.output import ends_with_its_reader, goes_on_without_readers
from deploy.cluster.environments import environment_to_make
from deploy.cluster.process_specs import ROOT
from deploy.exit_codes import ExitCode
from deploy.options import (
    HELP,
    Options,
    absolute_paths,
    pinned_revisions,
    run_folder,
    take_options,
    with_address,
)
from deploy.preflight.environment import check_form, named_by

if TYPE_CHECKING:
    from deploy.preflight.check import Checked

QUICKSTART = ROOT / "deploy" / "configs" / "quickstart.toml"
PURPOSE = "Runs broker, rollout servers and learner; without arguments, the CPU quickstart."


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = take_options(sys.argv[1:] if argv is None else argv, QUICKSTART)
    except ConfigError as error:
        exit_with(error)
    config = load_or_exit(options.arguments, "deploy/launch_cluster.sh", f"{PURPOSE}\n\n{HELP}")
    try:
        ray_named_by = named_by(config.cluster.address)
        config = with_address(config, options)
        if options.slurm:
            _slurm(config, options)
        elif options.kuberay:
            from deploy.batch import kuberay

            print(kuberay.manifest(config, absolute_paths(options.arguments)))
        elif options.dry_run:
            _dry_run(config, options, ray_named_by)
        else:
            from common.lifecycle import signal_handled

            # SIGTERM is Ctrl-C until there is a run to drain, which then takes both signals.
            as_ctrl_c = signal_handled(signal.SIGTERM, signal.default_int_handler)
            with goes_on_without_readers(), as_ctrl_c:
                code = _launch(config, options, ray_named_by)
            raise SystemExit(code)
    except ConfigError as error:
        exit_with(error)
    except KeyboardInterrupt:
        print("\nstopped before the run began: nothing was written", file=sys.stderr)
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except DataError as error:
        print(f"data error: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.REFUSED) from None
    except VisionOpdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.FAILED) from None
    except OSError as error:
        if not is_full(error):
            raise
        where = error.filename or "a file of the run"
        exit_with(
            ConfigError(f"{where} cannot be written: {error.strerror}. Fix: free space there")
        )


def _launch(config: RunConfig, options: Options, ray_named_by: str) -> int:
    """Run to the end; the exit code.

    Nothing is written to the run folder before all that can be known has been checked.

    Args:
        ray_named_by: where the address of the Ray to join was given.
    """
    from common import lifecycle
    from common.model_folder import with_local_models
    from deploy.preflight.check import check_room
    from deploy.preflight.environment import check_address
    from deploy.preflight.gpus import check_gpus
    from deploy.supervision.begun_run import check_before
    from deploy.supervision.trusted_folder import check_trusted

    os.umask(os.umask(0) | 0o022)  # what decides over a run is not written by a group
    now = time.localtime()
    folder = run_folder(config, now)
    check_trusted(folder)
    check_before(config, folder)
    if config.cluster.address is None:
        check_room(config)
    else:
        check_address(config.cluster.address, ray_named_by)
    checked = _checked(config, options, folder)
    config = checked.config
    _set_up_engine(config)
    if config.cluster.address is None:
        check_gpus(with_local_models(config))
    exit_code = 0

    async def supervised(stop: asyncio.Event) -> None:
        from deploy.supervision.live_run import live_run

        nonlocal exit_code
        exit_code = await live_run(config, now, stop, checked.reading)

    lifecycle.run(supervised)
    return exit_code


def _checked(config: RunConfig, options: Options, folder: Path) -> "Checked":
    """Data and models are here, fit together, and are those of the run that is gone on with."""
    from deploy.preflight.check import check_run
    from deploy.quickstart.own import ensure_own_dataset, without_foreign_heldout

    if config.data.train is None:
        raise ConfigError("data.train is not set. Fix: --data.train FILE.parquet")
    logging.getLogger().addHandler(logging.NullHandler())  # bad rows are the broker's to tell
    lines: list[str] = []
    config = without_foreign_heldout(config, options.arguments, lines.append)
    assert config.data.train is not None
    ensure_own_dataset(config.data.train, report=_say)
    checked = check_run(config, folder)
    for line in (*lines, *checked.lines):
        _say(line)
    return checked


def _say(line: str) -> None:
    print(line, flush=True)


def _dry_run(config: RunConfig, options: Options, ray_named_by: str) -> None:
    """On the described machines, on those of a Ray that runs, or on this one."""
    from common.gpus import visible_gpus
    from deploy.cluster import clusters
    from deploy.cluster.dry_run import dry_run
    from deploy.preflight.gpus import check_gpus, kernel_lines

    visible = None
    if options.cluster is not None:
        nodes = clusters.read_cluster(options.cluster)
    elif config.cluster.address is not None:
        check_form(config.cluster.address, ray_named_by)
        nodes = clusters.ray_nodes(config.cluster.address)
    else:
        visible = visible_gpus()
        nodes = [clusters.this_machine()]
    folder = run_folder(config, time.localtime())
    is_here = options.cluster is None and config.cluster.address is None
    arguments = absolute_paths(options.arguments)
    kernels = tuple(kernel_lines(config)) if is_here else ()
    dry_run(
        config, arguments, nodes, folder,
        reserves_cpus=not is_here, visible=visible, kernels=kernels,
    )  # fmt: skip
    if is_here:
        check_gpus(config)


def _slurm(config: RunConfig, options: Options) -> None:
    """Submit a job that launches this run, or print its script."""
    from deploy.batch import slurm
    from deploy.supervision.run_folder import check_folder, with_folder_of_its_own
    from deploy.supervision.trusted_folder import check_trusted

    now = time.localtime()
    folder = run_folder(config, now)
    arguments = absolute_paths(options.arguments)
    if options.dry_run:
        print(slurm.batch_script(config.changed(run={"folder": folder}), arguments))
        return
    check_trusted(folder)
    check_folder(config, folder, slurm.FURTHER)
    config = _checked(config, options, folder).config  # here: the job's machines may reach no hub
    slurm.check_submission(config, folder)
    arguments += pinned_revisions(config)
    is_unnamed = config.run.folder is None
    config = with_folder_of_its_own(config, now)
    folder = run_folder(config, now)
    job = slurm.submit(config, arguments, folder, is_made=is_unnamed)
    print(f"submitted job {job}\nrun folder: {folder}")


def _set_up_engine(config: RunConfig) -> None:
    """Make the engine's environment where this machine's servers need it; quick when it is there.

    Machines of a cluster that runs already are not ours to set up, and may not be like this one.
    """
    own = environment_to_make(config)
    if own is None or config.cluster.address is not None:
        return
    if subprocess.run([ROOT / "deploy" / "setup.sh", own.goal], check=False).returncode:
        raise ConfigError(
            f'rollout.engine = "{config.rollout.engine}": its environment could not be made, see '
            f"above. Fix: correct that, or set {own.key} to the Python of one that has {own.holds}"
        )


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
