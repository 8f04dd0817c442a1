"""Rates by doing: a few steps of the very run, through the launcher, in a folder that is deleted.

Rollout and learner work at the same time as they will in the run, on the same machines. What is
left out does not change a step: measurements are few and only at both ends.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import RunConfig
from common.errors import ConfigError, VisionOpdError
from deploy.cluster.process_specs import ROOT
from deploy.planning.journal_facts import read_journal
from deploy.planning.measured import measured_rates
from deploy.planning.rates import Rates
from deploy.planning.run_files import read_run

STEPS = 6
_SAMPLES = 64  # held-out samples to measure at the start and at the end
_LOG_LINES = 12
_STOP_S = 120.0


def calibrate(
    config: RunConfig,
    arguments: Sequence[str],
    steps: int,
    assumed: Rates,
    report: Callable[[str], None],
) -> Rates:
    """Run the configuration for some steps and take its rates.

    Args:
        arguments: that `config` was made of.
        steps: to measure, after one that warms up.

    Raises:
        VisionOpdError: the run failed; the message has the end of what it printed.
    """
    if steps < 2:
        raise ConfigError(f"--steps {steps}: too few to measure. Fix: --steps 6")
    parent = ROOT / "runs" if config.run.folder is None else config.run.folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="calibration-", dir=parent))
    try:
        report(f"calibrating: {steps} steps in {folder} ...")
        _run([*arguments, *_changes(config, folder / "run", steps)])
        return measured_rates(read_run(folder / "run"), assumed, read_journal(folder / "run"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _changes(config: RunConfig, folder: Path, steps: int) -> list[str]:
    # One step warms up; the last ones are not measured, since the servers are idle by then.
    total = 1 + steps + config.broker.max_staleness
    changes = {
        "run.folder": str(folder),
        "run.resume": "false",
        "learner.max_steps": str(total),
        "evaluation.every_steps": "0",
        "evaluation.samples": str(min(_SAMPLES, config.evaluation.samples or _SAMPLES)),
        "checkpoint.keep_best": "0",
        "weights.verify_first": "1",  # later pushes of a run are rarely verified
    }
    return [text for key, value in changes.items() for text in (f"--{key}", value)]


def _run(arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "deploy.launch", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            output, _ = launcher.communicate()  # the launcher's own limits end a run that hangs
        except BaseException:  # Ctrl-C: let it put its processes away before its folder goes
            launcher.terminate()
            launcher.wait(_STOP_S)
            raise
    if launcher.returncode:
        tail = "\n".join(output.strip().splitlines()[-_LOG_LINES:])
        raise VisionOpdError(f"the calibration run failed (exit {launcher.returncode}):\n{tail}")
