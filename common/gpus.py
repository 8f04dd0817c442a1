"""The NVIDIA GPUs of this machine, as its driver reports them. Nothing of CUDA is loaded."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from common.errors import ConfigError

_FIELDS = ("name", "memory.total", "driver_version")
_IDLE_MIB = 1024  # memory in use of a GPU that no program computes on; drivers keep some
_PATIENCE_S = 20.0  # nvidia-smi starts the driver
_MIB_A_GIB = 1024
_NO_DEVICES = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES; Slurm says the last one
_HOPPER = ("H100", "H200", "H800", "H20", "GH200")


@dataclass(frozen=True)
class Gpu:
    model: str  # such as H100
    gib: float = 0.0  # memory; 0 means unknown
    driver: str = ""  # its version; empty means unknown

    @property
    def is_hopper(self) -> bool:
        return self.model in _HOPPER


def machine_gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine; an empty tuple where no driver finds any.

    Raises:
        ConfigError: nvidia-smi does not answer.
    """
    tool = shutil.which("nvidia-smi")
    return () if tool is None else _ask(tool)


def usable_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process. Raises as `machine_gpus`."""
    visible = visible_gpus()
    if visible == []:
        return ()
    found = machine_gpus()
    return found if visible is None else found[: len(visible)]


def visible_gpus() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to us, as it names them; None means all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in _NO_DEVICES]


def idle_gpu() -> str | None:
    """A GPU of ours that is idle, as CUDA_VISIBLE_DEVICES names it; None without one.

    Raises:
        ConfigError: nvidia-smi does not answer.
    """
    tool, visible = shutil.which("nvidia-smi"), visible_gpus()
    answer = "" if tool is None else _answer(tool, ("index", "uuid", "memory.used"))
    for line in answer.splitlines():
        index, name, used, *_ = [part.strip() for part in line.split(",")] + ["", ""]
        is_ours = visible is None or index in visible or any(map(name.startswith, visible))
        mib = re.match(r"(\d+) MiB", used)
        if is_ours and mib and int(mib[1]) < _IDLE_MIB:
            return name
    return None


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """Read lines such as `NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06`."""
    return tuple(_gpu(line) for line in answer.splitlines() if line.strip())


def told(gpus: tuple[Gpu, ...]) -> str:
    """The GPUs in words: `8 x H100 (driver 580.65.06)`."""
    driver = f" (driver {gpus[0].driver})" if gpus[0].driver else ""
    return f"{len(gpus)} x {gpus[0].model}{driver}"


def refuse_idle_gpus(torch_version: str) -> None:
    """Refuse GPUs that a process may use and its torch cannot.

    Raises:
        ConfigError: there are some.
    """
    if gpus := usable_gpus():
        raise ConfigError(
            f"this machine has {told(gpus)}, and torch {torch_version} cannot use them: a step on "
            "CPUs would take days. Fix: a driver that suits torch (CUDA 13 needs >= 580), or "
            'FLAVOUR=gpu deploy/setup.sh learner; learner.device = "cpu" trains on CPUs'
        )


@functools.cache
def _ask(tool: str) -> tuple[Gpu, ...]:
    """Ask nvidia-smi, once a process: it takes up to seconds, and its answer stays the same."""
    return parse_gpus(_answer(tool, _FIELDS))


def _answer(tool: str, fields: tuple[str, ...]) -> str:
    """A line a GPU, these fields divided by commas; empty where nvidia-smi fails."""
    query = (tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"nvidia-smi does not answer within {_PATIENCE_S:g} s. Fix: repair the GPU's driver, "
            "or set CUDA_VISIBLE_DEVICES to nothing to run on CPUs"
        ) from None
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _gpu(line: str) -> Gpu:
    name, memory, driver, *_ = [part.strip() for part in line.split(",")] + ["", ""]
    mib = re.match(r"(\d+) MiB", memory)
    return Gpu(_model(name), int(mib[1]) / _MIB_A_GIB if mib else 0.0, driver)


def _model(name: str) -> str:
    """A GPU's model as Ray labels it: H100 for `NVIDIA H100 80GB HBM3`."""
    found = re.match(r"\w+\s+([A-Z0-9]+)", name)
    return found[1] if found else name
