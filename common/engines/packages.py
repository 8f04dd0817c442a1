"""What an engine's own environment has for GPUs, looked at before a model is loaded."""

import functools
import subprocess
from pathlib import Path

from common.config import RunConfig
from common.engines import engine_of, own_environment
from common.errors import ConfigError
from common.gpu_packages import GpuPackages, gpu_packages_of
from common.gpus import usable_gpus
from common.kernels import check_torch, pushes_over_nccl


def check_server(config: RunConfig) -> None:
    """Whether the servers that this machine starts can use its GPUs.

    Raises:
        ConfigError: they cannot; or there is no environment, or it does not run.
    """
    found = server_packages(config)
    if found is not None and (own := engine_of(config).own):
        check_torch(found, usable_gpus(), own.goal, "CUDA_VISIBLE_DEVICES= (for CPUs)")


def server_packages(config: RunConfig) -> GpuPackages | None:
    """The packages of the environment in which servers start engines on this machine's GPUs.

    None means that there is no GPU, or no such environment, because they start none or in ours.

    Raises:
        ConfigError: it is missing, or does not run.
    """
    own = own_environment(config)
    if own is None or not usable_gpus():
        return None
    return _of(own.find_python(config), engine_of(config).title, own.goal, own.key)


def server_nccl(config: RunConfig) -> dict[str, str]:
    """NCCL by the name under which the broker compares it; empty where no push goes over it."""
    found = server_packages(config)
    if found is None or not found.nccl or not pushes_over_nccl(config, on_gpu=True):
        return {}
    return {"nccl": found.nccl}


@functools.cache
def _of(python: Path, title: str, goal: str, key: str) -> GpuPackages:
    try:
        return gpu_packages_of(python)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f"{title}'s environment does not run ({python}: {error}). "
            f"Fix: deploy/setup.sh {goal}, or correct {key}"
        ) from error
