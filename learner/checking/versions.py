"""What is installed, and what the device says it is."""

import importlib.metadata
from collections.abc import Iterator

import torch

from learner.checking.findings import Figure, Finding

_PACKAGES = (
    "torch", "torchvision", "triton", "transformers", "flash-linear-attention", "fla-core",
    "causal-conv1d", "flash-attn",
)  # fmt: skip


def check_versions(device: torch.device) -> Iterator[Finding]:
    """One finding, which is always good: the other parts show what follows from it."""
    figures: dict[str, Figure] = {name: _version(name) for name in _PACKAGES}
    figures["device"] = "CPU"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        figures |= {
            "device": about.name,
            "memory_gib": about.total_memory / 2**30,
            "capability": f"{about.major}.{about.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
            "devices": torch.cuda.device_count(),
        }
    yield Finding("versions", "what is here", "ok", figures)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
