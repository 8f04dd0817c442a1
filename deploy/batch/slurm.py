"""The batch script of a Slurm job that starts Ray on the allotted nodes and runs the launcher."""

import contextlib
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.config import RunConfig
from common.errors import ConfigError
from deploy.cluster.environments import environment_to_make, is_set_up_here, pool_section
from deploy.cluster.machines import Machine, gpus_per_node, machines_for
from deploy.cluster.process_specs import ROOT
from deploy.supervision.begun_run import missing
from deploy.supervision.run_folder import check_folder
from deploy.supervision.trusted_folder import make_private

FURTHER = " --slurm"  # what going on with a run takes besides
_BODY = Path(__file__).with_name("slurm_job.sh")
_SUBMIT_TIMEOUT_S = 60.0
_NODES_TIMEOUT_S = 300  # from the first node's Ray to the last one's
_WARNING_S = 120  # from SIGTERM to the end of the allotted time, at least
_AFTER_DRAIN_S = 60  # of it, for rollouts, broker and Ray after the learner
_GPU_OPTIONS = ("--gres", "--gpus", "-G")


class _Unanswered(ConfigError):
    """Slurm may have the job all the same."""


def batch_script(
    config: RunConfig,
    arguments: Sequence[str],
    launcher: Sequence[str] = (sys.executable, "-m", "deploy.launch"),
) -> str:
    """The script, to be kept as run.folder/slurm.sh: the nodes run it too.

    run.folder must be on a file system that all nodes share, and so must the code.

    Args:
        arguments: those of a person to the launcher, without --slurm. Paths in them are relative
            to the working folder.
        launcher: the command that is run on the first node, with the arguments and --address.

    Raises:
        ConfigError: how many machines to ask for cannot be told, or a path or option is none that
            Slurm could read.
    """
    if config.run.folder is None:
        raise ConfigError("run.folder is not set. Fix: --run.folder FOLDER, on a shared disk")
    run = config.run.folder.absolute()
    machines = machines_for(config)
    cpus = max(1, math.ceil(max(machine.cpus for machine in machines)))
    here = Path.cwd()
    options = [
        f"--job-name={_job_name(config.run.name)}",
        f"--nodes={len(machines)}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cpus}",
        *_gpu_options(config),
        f"--output={_path(run).replace('%', '%%')}/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{_warning_s(config)}",
        f"--chdir={_path(here)}",
    ]
    variables = {
        "root": str(ROOT),
        "run": str(run),
        "chdir": str(here),
        "python": sys.executable,
        "launcher": launcher,
        "arguments": (*arguments, "--run.folder", str(run)),
        "labels": [_labels(machine) for machine in machines],
        "pythons": [_python(config, machine) for machine in machines],
        "set_ups": [_set_ups(config, machine, machine is machines[0]) for machine in machines],
        "cpus": str(cpus),
        "is_gpu": str(int(gpus_per_node(config) > 0)),
        "nodes_timeout_s": str(_NODES_TIMEOUT_S),
    }
    lines = ["#!/usr/bin/env bash"]
    lines += [f"#SBATCH {_escaped(option)}" for option in options]
    lines += [f"#SBATCH {line}" for line in _own_lines(config.cluster.slurm_options)]
    lines += [f"{name}={_shell(value)}" for name, value in variables.items()]
    return "\n".join(lines) + "\n" + _BODY.read_text(encoding="utf-8")


def check_submission(config: RunConfig, folder: Path) -> None:
    """Refuses what could not be submitted.

    Raises:
        ConfigError: there is no sbatch, or as `run_folder.check_folder`.
    """
    check_folder(config, folder, FURTHER)
    if shutil.which("sbatch") is None:
        raise ConfigError("--slurm: there is no sbatch in PATH. Fix: submit from a login node")


def submit(config: RunConfig, arguments: Sequence[str], folder: Path, is_made: bool = False) -> str:
    """Write folder/slurm.sh and submit it; returns the job's id.

    Args:
        is_made: whether this launch has made the folder.

    Raises:
        ConfigError: sbatch refuses, or as `check_submission`. The folder is then as it was.
    """
    folder = folder.absolute()
    check_submission(config, folder)
    script = folder / "slurm.sh"
    with _folder_as_it_was([folder] if is_made else missing(folder), script):
        text = batch_script(config.changed(run={"folder": folder}), arguments)
        make_private(folder)
        script.write_text(text, encoding="utf-8")
        return _sbatch(script)


@contextlib.contextmanager
def _folder_as_it_was(new: Sequence[Path], script: Path) -> Iterator[None]:
    """After an error inside; a job whose submission was not answered keeps its script."""
    before = script.read_bytes() if script.exists() else None
    try:
        yield
    except _Unanswered:
        raise
    except BaseException:
        if before is None:
            script.unlink(missing_ok=True)
        else:
            script.write_bytes(before)
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _sbatch(script: Path) -> str:
    command = ["sbatch", "--parsable", str(script)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_SUBMIT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _Unanswered(
            f"sbatch did not answer within {_SUBMIT_TIMEOUT_S:.0f} s. Fix: ask squeue whether the "
            f"job is there, then {shlex.join(command)}"
        ) from None
    job = answer.stdout.strip().partition(";")[0]  # ";cluster" may follow
    if answer.returncode or not job:
        reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        raise ConfigError(
            f"sbatch refused the job: {reason}. Fix: what it asks for goes into "
            "cluster.slurm_options"
        )
    return job


def _warning_s(config: RunConfig) -> int:
    return max(_WARNING_S, math.ceil(config.cluster.drain_s) + _AFTER_DRAIN_S)


def _job_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _gpu_options(config: RunConfig) -> list[str]:
    """None where the site's own options ask for GPUs in another way."""
    gpus = gpus_per_node(config)
    is_asked = any(option.startswith(_GPU_OPTIONS) for option in config.cluster.slurm_options)
    return [f"--gpus-per-node={gpus}"] if gpus and not is_asked else []


def _own_lines(words: Iterable[str]) -> list[str]:
    """Options as lines: each begins one, words that are none are its value."""
    lines: list[str] = []
    for word in words:
        if word.startswith("-"):
            lines.append(_escaped(word))
        elif lines:
            lines[-1] += f" {_escaped(word)}"
        else:
            raise ConfigError(
                f"cluster.slurm_options begins with {word!r}, which is no option. Fix: write "
                "options as sbatch has them, such as --partition=gpu"
            )
    return lines


def _path(path: Path) -> str:
    text = str(path)
    if "\n" in text:
        raise ConfigError(f"{text!r}: Slurm reads no such path. Fix: one without line breaks")
    return text


def _escaped(word: str) -> str:
    """A word as sbatch reads its lines: a backslash takes any character's meaning away."""
    if "\n" in word:
        raise ConfigError(f"cluster.slurm_options: {word!r} has a line break. Fix: leave it out")
    return re.sub(r"([^\w@%+=:,./\[\]*-])", r"\\\1", word, flags=re.ASCII)


def _shell(value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return shlex.quote(value)
    return f"({shlex.join(value)})"


def _labels(machine: Machine) -> str:
    """Those that Ray does not find out by itself (ray.io/...)."""
    own = {key: value for key, value in machine.labels.items() if not key.startswith("ray.io/")}
    return ",".join(f"{key}={value}" for key, value in own.items())


def _python(config: RunConfig, machine: Machine) -> str:
    """The one that Ray runs on there: the launcher's, unless all pools there name their own."""
    named = [pool_section(pool, config).python for pool in machine.pools]
    first = named[0] if named and all(named) else None
    return str(first or sys.executable)


def _set_ups(config: RunConfig, machine: Machine, has_launcher: bool) -> str:
    """Goals of deploy/setup.sh. All of `run`: on a shared disk one environment serves all pools."""
    unnamed = [pool for pool in machine.pools if pool_section(pool, config).python is None]
    goals = []
    if is_set_up_here(sys.executable) and (has_launcher or unnamed):
        goals.append("run")
    if "rollout" in unnamed and (own := environment_to_make(config)):
        goals.append(own.goal)
    return " ".join(goals)
