"""What an environment has for GPUs: torch, NCCL, Triton and the kernels that we call.

Also run by its path, with the Python of another environment, of which it then tells in JSON: it
needs nothing but the standard library.
"""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

_PATIENCE_S = 120.0  # a network disk's first look at torch
_CUDA = re.compile(r"^cuda\b[^=]*= *'([^']+)'", re.MULTILINE)  # in torch/version.py


@dataclass(frozen=True)
class GpuPackages:
    """Versions of packages; None means that one is not installed."""

    torch: str | None = None
    cuda: str | None = None  # the version that torch was built for
    nccl: str | None = None  # the version that torch brings, or has loaded
    triton: str | None = None
    fla: str | None = None  # flash-linear-attention
    flash_attn: str | None = None


def gpu_packages() -> GpuPackages:
    """This process's packages. torch is imported only where its NCCL cannot be told without."""
    cuda = _cuda_of_torch()
    return GpuPackages(
        torch=_version("torch"),
        cuda=cuda,
        nccl=_nccl() if cuda else None,
        triton=_version("triton") or _version("pytorch-triton"),
        fla=_version("fla-core") or _version("flash-linear-attention"),
        flash_attn=_version("flash-attn"),
    )


def gpu_packages_of(python: Path) -> GpuPackages:
    """The packages of another environment, by its Python.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: it does not run, or not in time.
    """
    command = [str(python), "-I", __file__]  # -I: nothing of this folder is imported
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S
    )
    return GpuPackages(**json.loads(answer.stdout))


def release(version: str | None) -> tuple[int, ...]:
    """The numbers of a version, to be compared: (2, 14, 1) of "2.14.1+cu130"."""
    leading = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(map(int, leading[0].split("."))) if leading else ()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_of_torch() -> str | None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    return cuda_in(text)


def cuda_in(version_file: str) -> str | None:
    """CUDA's version in the text of torch/version.py; None means a build for CPUs."""
    found = _CUDA.search(version_file)
    return found[1] if found else None


def _nccl() -> str | None:
    """Version of the NCCL that is loaded; before that, of the package that torch loads it from."""
    if "torch" not in sys.modules:
        names = (str(found.metadata["Name"]) for found in importlib.metadata.distributions())
        package = nccl_package(names)
        if package is not None:
            return _version(package)
    return ".".join(map(str, importlib.import_module("torch.cuda.nccl").version()[:3]))


def nccl_package(names: Iterable[str]) -> str | None:
    """Which of these packages holds NCCL; None means that none does, or several do."""
    found = [name for name in names if re.fullmatch(r"nvidia-nccl-cu\d+", name)]
    return found[0] if len(found) == 1 else None


if __name__ == "__main__":
    print(json.dumps(asdict(gpu_packages())))
