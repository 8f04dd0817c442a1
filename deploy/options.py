"""The launcher's own options, taken out of a command line whose rest is the configuration's."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from common.config import RunConfig
from common.errors import ConfigError
from deploy import exit_codes
from deploy.cluster.process_specs import ROOT
from deploy.preflight.environment import ADDRESS

HELP = f"""\
{exit_codes.HELP}

Options of the launcher:
  --address HOST:PORT   Join the Ray cluster there, as --cluster.address does; without either the
                        environment's RAY_ADDRESS, and without that a local Ray on loopback.
  --dry-run             Start nothing: print which process would sit on which machine, and its
                        command to run it by hand; exit code 2 if the machines cannot hold them.
  --cluster FILE        With --dry-run: the machines of this file (deploy/configs/clusters/)
                        instead of those that are there.
  --slurm               Submit a Slurm job that starts Ray on its nodes and the run on that; with
                        --dry-run print its script instead.
  --kuberay             Print a KubeRay manifest of the run.

Of a run that is under way or over, python -m deploy.status, deploy.logs, deploy.explain and
deploy.trace RUN tell more.

Options of the configuration:"""
_SWITCHES = ("--dry-run", "--slurm", "--kuberay")
_VALUES = {"--address": "HOST:PORT", "--cluster": "FILE"}


@dataclass(frozen=True)
class Options:
    arguments: tuple[str, ...]  # of the configuration
    dry_run: bool = False
    cluster: Path | None = None  # a described one
    slurm: bool = False
    kuberay: bool = False


def take_options(argv: Sequence[str], default_config: Path) -> Options:
    """Split a command line.

    Args:
        default_config: what is run when no --config is given.

    Raises:
        ConfigError: options that do not go together, or lack their value.
    """
    given, arguments = split_options(argv, _SWITCHES, _VALUES)
    if "--address" in given:
        arguments += ["--cluster.address", given["--address"]]
    if not any(argument.partition("=")[0] == "--config" for argument in arguments):
        arguments = ["--config", str(default_config), *arguments]
    cluster = Path(given["--cluster"]) if "--cluster" in given else None
    dry_run, slurm, kuberay = (name in given for name in _SWITCHES)
    options = Options(tuple(arguments), dry_run, cluster, slurm, kuberay)
    _check(options)
    return options


def split_options(
    argv: Sequence[str], switches: Sequence[str], values: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """A program's own options with their values, the last of each, and what is left.

    Args:
        values: options that have a value, with what that is called.
    """
    given: dict[str, str] = {}
    rest: list[str] = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        name, separator, value = argument.partition("=")
        has_value = not separator and bool(left)
        if name in switches and separator:
            raise ConfigError(f"{argument}: {name} takes no value. Fix: {name}")
        if name in values and not separator and (not left or left[0].startswith("--")):
            raise ConfigError(f"{name} has no value. Fix: {name} {values[name]}")
        if name in switches or name in values:
            given[name] = left.pop(0) if has_value and name in values else value
        else:
            rest.append(argument)
            if name.startswith("--") and has_value:
                rest.append(left.pop(0))  # its value, whatever it looks like
    return given, rest


def _check(options: Options) -> None:
    if options.slurm and options.kuberay:
        raise ConfigError("--slurm and --kuberay are two ways to run. Fix: give one of them")
    if options.cluster is None:
        return
    if options.slurm or options.kuberay:
        raise ConfigError(
            "--cluster describes machines for a plain --dry-run. Fix: leave out --slurm, --kuberay"
        )
    if not options.dry_run:
        raise ConfigError(
            f"--cluster {options.cluster} only describes machines. Fix: add --dry-run, or name a "
            "Ray that runs there: --address HOST:PORT"
        )


def with_address(
    config: RunConfig, options: Options, environment: Mapping[str, str] = os.environ
) -> RunConfig:
    """The configuration with the address of the Ray to join, from wherever it is given.

    Raises:
        ConfigError: an address is given beside an option that leaves no use for it.
    """
    address = config.cluster.address
    if address is not None:
        for is_given, option in (
            (options.cluster is not None, "--cluster"),
            (options.slurm, "--slurm"),
            (options.kuberay, "--kuberay"),
        ):
            if is_given:
                raise ConfigError(
                    f"cluster.address = {address!r} and {option}: machines of one kind at a time. "
                    "Fix: leave out one of them"
                )
    elif not (options.cluster or options.slurm or options.kuberay):
        address = environment.get(ADDRESS) or None
    return config.changed(cluster={"address": address})


def absolute_paths(arguments: Sequence[str], base: Path | None = None) -> tuple[str, ...]:
    """The same arguments for a process in another working folder.

    Args:
        base: the folder that their paths are relative to. None means the working folder.
    """
    base = base or Path.cwd()
    result: list[str] = []
    flag = ""
    for argument in arguments:
        if flag:
            result.append(_absolute(flag, argument, base))
            flag = ""
        elif "=" in argument:
            flag, _, value = argument.partition("=")
            result.append(f"{flag}={_absolute(flag, value, base)}")
            flag = ""
        else:
            flag = argument
            result.append(argument)
    return tuple(result)


def pinned_revisions(config: RunConfig) -> tuple[str, ...]:
    """Arguments that hold a process that starts later to the commits of this configuration."""
    pairs = (
        (f"--{section}.revision", getattr(config, section).revision)
        for section in ("model", "teacher")
    )
    return tuple(word for key, commit in pairs if commit is not None for word in (key, commit))


def _absolute(flag: str, value: str, base: Path) -> str:
    is_path = flag == "--config" or _is_path_key(flag.removeprefix("--"))
    if value == "none" or not (is_path or value.startswith(("./", "../"))):
        return value
    return str(base / value)


def _is_path_key(name: str) -> bool:
    section, _, key = name.partition(".")
    field = type(getattr(RunConfig(), section)).model_fields[key]
    return Path in (field.annotation, *get_args(field.annotation))


def run_folder(config: RunConfig, now: time.struct_time) -> Path:
    """Where a run that starts now keeps what it leaves behind."""
    stamp = time.strftime("%Y%m%d-%H%M%S", now)
    return (config.run.folder or ROOT / "runs" / f"{config.run.name}-{stamp}").absolute()
