"""Which kernels a learner computes with, and the environments that must not be started.

Pure, but for a model's config.json. What is told here of attention, delta rule and norms is what
learner/model chooses by device, dtype and installed packages.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.families import find_family
from common.files import json_object_or_empty
from common.gpu_packages import GpuPackages, release
from common.gpus import Gpu, told

if TYPE_CHECKING:
    from common.config import ModelSection, RunConfig

REFERENCE = "reference"  # the delta rule by torch operators, some two thousand a layer
_TORCH = (2, 12, 1)  # the first with a Triton that is right on Hopper
_FLA = (0, 6)  # older ones have wrong gradients of convolutions of one or two tokens
_TRITON_ON_HOPPER = (3, 7, 1)  # older ones: wrong gradients of the delta rule (fla's issue 640)
_DRIVERS = {13: 580, 12: 525}  # the least that runs this CUDA (CUDA's release notes)
_SAME = "deploy/setup.sh {pool} on that machine, or the image of deploy/docker"


@dataclass(frozen=True)
class Kernels:
    """The kernels of a learner by name and version, as people are shown them."""

    attention: str  # in text layers: "flash", or "plain" (float32 on GPUs)
    vision: str  # transformers' name
    delta_rule: str  # "fla 0.6.0", "reference" or "none": the model has no such layers
    norms: str  # and gates: "fla 0.6.0" or "torch"
    torch: str
    cuda: str | None = None
    nccl: str | None = None

    def __str__(self) -> str:
        runs = [
            f"attention {self.attention}",
            f"vision {self.vision}",
            f"delta rule {self.delta_rule}",
            f"norms {self.norms}",
        ]
        built = [f"torch {self.torch}"]
        built += [f"CUDA {self.cuda}"] if self.cuda else []
        built += [f"NCCL {self.nccl}"] if self.nccl else []
        return f"{', '.join(runs)}; {', '.join(built)}"


def kernels_in_force(
    packages: GpuPackages, model: "ModelSection", *, on_gpu: bool, has_delta: bool
) -> Kernels:
    """What a learner of this environment computes with.

    Args:
        has_delta: the model has layers of the gated delta net.
    """
    fla = f"fla {packages.fla}" if on_gpu and packages.fla else None
    return Kernels(
        attention="plain" if on_gpu and model.dtype == "float32" else "flash",
        vision=_vision(packages, model.attention, on_gpu),
        delta_rule=(fla or REFERENCE) if has_delta else "none",
        norms=fla or "torch",
        torch=packages.torch or "none",
        cuda=packages.cuda if on_gpu else None,
        nccl=packages.nccl if on_gpu else None,
    )


def _vision(packages: GpuPackages, asked: str, on_gpu: bool) -> str:
    if asked != "auto":
        return asked
    return "flash_attention_2" if on_gpu and packages.flash_attn else "sdpa"


def pushes_over_nccl(config: "RunConfig", on_gpu: bool) -> bool:
    """Whether learner and servers meet in one group of NCCL's."""
    weights = config.weights
    return on_gpu and weights.transport == "broadcast" and weights.backend != "gloo"


def has_delta_layers(model_path: str) -> bool:
    """Whether a model folder holds a hybrid such as Qwen3.5. False for a name on the hub."""
    config = json_object_or_empty(Path(model_path) / "config.json")
    return any(_is_hybrid(part) for part in (config, config.get("text_config")))


def _is_hybrid(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    family = find_family(part)
    kinds = part.get("layer_types") or (family.layer_kinds if family else ())
    return "linear_attention" in kinds


def check_torch(packages: GpuPackages, gpus: tuple[Gpu, ...], pool: str, on_cpus: str) -> None:
    """Whether torch can use the machine's GPUs, as far as that shows without CUDA.

    Args:
        pool: what deploy/setup.sh calls the environment.
        on_cpus: the setting with which no GPU is used.

    Raises:
        ConfigError: it cannot; the message has the driver's version and the fix.
    """
    if not gpus or packages.torch is None:
        return
    here, what = f"this machine has {told(gpus)}", f"torch {packages.torch}"
    if packages.cuda is None:
        raise ConfigError(
            f"{here}, but the {pool} environment's {what} is a build for CPUs. "
            f"Fix: FLAVOUR=gpu deploy/setup.sh {pool}, or {on_cpus}"
        )
    (cuda, *_), driver = release(packages.cuda), release(gpus[0].driver)
    least = _DRIVERS.get(cuda)
    if least is not None and driver and driver[0] < least:
        raise ConfigError(
            f"{here}, but the {pool} environment's {what} is built for CUDA {packages.cuda}, which "
            f"needs a driver >= {least}. Fix: install one, or {on_cpus}"
        )


def check_learner(packages: GpuPackages, gpus: tuple[Gpu, ...], has_delta: bool) -> None:
    """Whether a learner computes on these GPUs what it should, at the speed that it should.

    Raises:
        ConfigError: torch cannot use them, or the gated delta rule would be slow or wrong.
    """
    check_torch(packages, gpus, "learner", 'learner.device = "cpu"')
    if not gpus:
        return
    if release(packages.torch) < _TORCH:
        raise _too_old("torch", packages.torch, _TORCH, "its Triton computes wrong gradients")
    if not has_delta:
        return
    if packages.fla is None or packages.triton is None:
        missing = "flash-linear-attention" if packages.fla is None else "Triton"
        raise ConfigError(
            f"model.path: the model has layers of the gated delta net, and {missing} is not "
            f"installed: without its kernels a step takes more than twice as long. "
            f"Fix: {_SAME.format(pool='learner')}"
        )
    if release(packages.fla) < _FLA:
        wrong = "it computes wrong gradients for short responses"
        raise _too_old("flash-linear-attention", packages.fla, _FLA, wrong)
    if any(gpu.is_hopper for gpu in gpus) and release(packages.triton) < _TRITON_ON_HOPPER:
        wrong = f"on {told(gpus)} it computes wrong gradients of the gated delta rule"
        raise _too_old("Triton", packages.triton, _TRITON_ON_HOPPER, wrong)


def check_nccl(learner: GpuPackages, server: GpuPackages, engine: str) -> None:
    """Refuse two environments that could never meet in a group of NCCL, with a ConfigError."""
    if learner.nccl and server.nccl and learner.nccl != server.nccl:
        raise ConfigError(
            f"the learner's torch {learner.torch} has NCCL {learner.nccl}, {engine}'s torch "
            f"{server.torch} has {server.nccl}: NCCL refuses such a group, and no push would "
            "arrive. Fix: make both environments with deploy/setup.sh from the same commit, or "
            'weights.transport = "files"'
        )


def _too_old(name: str, version: str | None, least: tuple[int, ...], why: str) -> ConfigError:
    return ConfigError(
        f"{name} {version} is older than {'.'.join(map(str, least))}: {why}. "
        f"Fix: {_SAME.format(pool='learner')}"
    )
