"""A check, before the model is loaded, that the environment suits the GPUs."""

import importlib

from common.config import RunConfig
from common.errors import ConfigError
from common.gpu_packages import gpu_packages
from common.gpus import usable_gpus
from common.kernels import Kernels, check_learner, has_delta_layers, kernels_in_force

_RULE = "fla.ops.gated_delta_rule"


def start_check(config: RunConfig, *, on_gpu: bool) -> Kernels:
    """The kernels that this learner computes with.

    Args:
        config: with the folder of its model.
        on_gpu: the device that was chosen is one.

    Raises:
        ConfigError: on its GPUs the learner would be wrong, or slow.
    """
    packages, has_delta = gpu_packages(), has_delta_layers(config.model.path)
    if on_gpu:
        check_learner(packages, usable_gpus(), has_delta)
        if has_delta:
            _load(_RULE)
    return kernels_in_force(packages, config.model, on_gpu=on_gpu, has_delta=has_delta)


def _load(module: str) -> None:
    """Import a module: what is installed may still not be importable, and is then passed over."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a package does when it is imported
        raise ConfigError(
            f"model.path: {module} cannot be imported ({type(error).__name__}: {error}), and "
            "without its kernels a step takes more than twice as long. "
            "Fix: deploy/setup.sh learner on that machine, or the image of deploy/docker"
        ) from error
