"""Whether this machine's environments suit its GPUs, for a run that is placed on it."""

from collections.abc import Iterator
from pathlib import Path

from common.config import RunConfig
from common.engines import engine_of
from common.engines.packages import check_server, server_packages
from common.errors import ConfigError
from common.gpu_packages import GpuPackages, gpu_packages, gpu_packages_of
from common.gpus import usable_gpus
from common.kernels import (
    check_learner,
    check_nccl,
    has_delta_layers,
    kernels_in_force,
    pushes_over_nccl,
)
from deploy.planning.shape import shape_of


def check_gpus(config: RunConfig) -> None:
    """Before anything is started; nothing is checked where there is no GPU.

    Raises:
        ConfigError: torch cannot use the GPUs, the learner's kernels would be slow or wrong, or no
            push could arrive. The message has the fix.
    """
    gpus = usable_gpus()
    if not gpus:
        return
    ours = _learner_packages(config)
    if config.learner.device != "cpu":
        check_learner(ours, gpus, is_hybrid(config.model.path))
    check_server(config)
    server = server_packages(config)
    if server is not None and pushes_over_nccl(config, config.learner.device != "cpu"):
        check_nccl(ours, server, engine_of(config).title)


def kernel_lines(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(process, kernels) of each kind of process here, for people. Raises as `check_gpus`."""
    on_gpu = bool(usable_gpus()) and config.learner.device != "cpu"
    has_delta = is_hybrid(config.model.path)
    packages = _learner_packages(config)
    found = kernels_in_force(packages, config.model, on_gpu=on_gpu, has_delta=has_delta)
    yield "learner", str(found)
    if (server := server_packages(config)) is not None:
        own = f"{engine_of(config).title}'s own"
        yield "rollout", f"{own}; torch {server.torch}, NCCL {server.nccl}"


def is_hybrid(model_path: str) -> bool:
    """Whether the model has layers of the gated delta net, also of one that is not here yet."""
    if has_delta_layers(model_path):
        return True
    try:
        shape = shape_of(model_path)
    except ConfigError:
        return False
    return shape.full_layers < shape.layers


def _learner_packages(config: RunConfig) -> GpuPackages:
    python: Path | None = config.learner_pool.python
    return gpu_packages() if python is None else gpu_packages_of(python)
