"""What SGLang's environment has for GPUs, looked at before a model is loaded."""

import functools
import subprocess
from pathlib import Path

from common.config import RunConfig
from common.errors import ConfigError
from common.gpu_packages import GpuPackages, gpu_packages_of
from common.gpus import usable_gpus
from common.kernels import check_torch, pushes_over_nccl
from rollout.sglang.command import find_python


def starts_sglang(config: RunConfig) -> bool:
    return config.rollout.engine == "sglang" and not config.rollout.engine_urls


def check_server(config: RunConfig) -> None:
    """Whether the servers that this machine starts can use its GPUs.

    Raises:
        ConfigError: they cannot; or there is no environment, or it does not run.
    """
    if starts_sglang(config) and (gpus := usable_gpus()):
        check_torch(server_packages(config), gpus, "sglang", "CUDA_VISIBLE_DEVICES= (for CPUs)")


def server_packages(config: RunConfig) -> GpuPackages:
    """The packages of SGLang's environment; ConfigError if there is none, or it does not run."""
    return _of(find_python(config))


def server_nccl(config: RunConfig) -> dict[str, str]:
    """NCCL's version, as the broker compares it; empty where no push goes over NCCL."""
    if not starts_sglang(config) or not pushes_over_nccl(config, bool(usable_gpus())):
        return {}
    found = server_packages(config).nccl
    return {"nccl": found} if found else {}


@functools.cache
def _of(python: Path) -> GpuPackages:
    try:
        return gpu_packages_of(python)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f"SGLang's environment does not run ({python}: {error}). "
            "Fix: deploy/setup.sh sglang, or correct sglang.python"
        ) from error
