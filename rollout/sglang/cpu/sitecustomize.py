"""Lets the unmodified SGLang run without a GPU. Python imports this by itself, from PYTHONPATH.

SGLang has no wheel for ordinary CPUs: what it takes from CUDA packages is missing. Each finder here
waits for one import and supplies what that import lacks; the package `sgl_kernel` beside this file
does the rest. Every process of the server inherits the path, and so all of this.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_GATED_NORM = "sglang.kernels.ops.attention.fla.layernorm_gated"
_TORCHVISION_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_Path = Sequence[str] | None
_Spec = importlib.machinery.ModuleSpec


class _TorchvisionOperators(importlib.abc.MetaPathFinder):
    """Declares two operators just before torchvision is imported.

    PyPI's wheel links CUDA: next to a CPU build of torch its operators do not load, and the import
    fails because their schemas are missing. The Qwen processors never call them.
    """

    def find_spec(self, fullname: str, path: _Path, target: Any = None) -> _Spec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if not hasattr(torch.ops.torchvision, "nms"):
                for name in ("nms", "qnms"):
                    torch.library.define(f"torchvision::{name}", _TORCHVISION_SCHEMA)
        return None


class _Triton(importlib.abc.MetaPathFinder):
    """Supplies Triton's names where Triton is not installed: kernels are defined, never run.

    SGLang has stand-ins of its own, for Macs. They ask what machine this is, and get a Mac's
    answers here. Triton itself would be 690 MB that no CPU can use.
    """

    def find_spec(self, fullname: str, path: _Path, target: Any = None) -> _Spec | None:
        if fullname != "triton":
            return None
        sys.meta_path.remove(self)
        stand_ins = _sglang_stand_ins()
        stand_ins.sys = types.SimpleNamespace(  # type: ignore[attr-defined]
            platform="darwin", modules=sys.modules, meta_path=sys.meta_path
        )
        stand_ins.platform = types.SimpleNamespace(machine=lambda: "arm64")  # type: ignore[attr-defined]
        stand_ins._patch_non_blocking = lambda: None  # type: ignore[attr-defined]
        _as_if_on_a_mac(stand_ins.install_platform_stubs)
        # The import system refuses a module that is there already when its finder answers.
        triton = sys.modules.pop("triton")
        return _Spec("triton", _Ready(triton), is_package=True)


class _GatedNorm(importlib.abc.MetaPathFinder):
    """Replaces the one Triton kernel that Qwen3.5's linear attention runs on a CPU without AMX."""

    def find_spec(self, fullname: str, path: _Path, target: Any = None) -> _Spec | None:
        if fullname != _GATED_NORM:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenReplace(spec.loader, "layernorm_fn", _gated_rms_norm)
        return spec


class _Ready(importlib.abc.Loader):
    """Loads a module that exists already."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def create_module(self, spec: _Spec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _ThenReplace(importlib.abc.Loader):
    """Loads a module as usual, then puts another function in the place of one of its own."""

    def __init__(self, loader: Any, name: str, function: Callable[..., Any]) -> None:
        self._loader = loader
        self._name = name
        self._function = function

    def create_module(self, spec: _Spec) -> types.ModuleType | None:
        created: types.ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        if not hasattr(module, self._name):
            raise ImportError(f"{module.__name__} has no {self._name}: another SGLang than 0.5.23")
        setattr(module, self._name, self._function)


def _sglang_stand_ins() -> types.ModuleType:
    """SGLang's file of stand-ins as a module of its own: importing sglang would import Triton."""
    package = importlib.machinery.PathFinder.find_spec("sglang")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "_platform_stubs.py"
    spec = importlib.util.spec_from_file_location("_sglang_stand_ins", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def _as_if_on_a_mac(install: Callable[[], None]) -> None:
    import torch

    is_available = torch.backends.mps.is_available
    torch.backends.mps.is_available = lambda: True
    try:
        install()
    finally:
        torch.backends.mps.is_available = is_available


def _gated_rms_norm(
    x: Any,
    weight: Any,
    bias: Any,
    z: Any = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
    activation: str = "swish",
    **_: Any,
) -> Any:
    """RMS norm of `x` over its last axis, times the activation of the gate `z`."""
    import torch

    if not is_rms_norm or group_size is not None or not norm_before_gate:
        raise NotImplementedError("only the gated norm of Qwen3.5 runs on a CPU")
    exact = x.float()
    normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps) * weight.float()
    if bias is not None:
        normed = normed + bias.float()
    if z is not None:
        gate = z.float()
        is_swish = activation in ("swish", "silu")
        normed = normed * (torch.nn.functional.silu(gate) if is_swish else torch.sigmoid(gate))
    return normed.to(x.dtype)


def _is_installed(name: str) -> bool:
    return importlib.machinery.PathFinder.find_spec(name) is not None


if _is_installed("sglang"):  # another Python may meet this path too
    sys.meta_path[:0] = [_TorchvisionOperators(), _GatedNorm()]
    if not _is_installed("triton"):
        sys.meta_path.append(_Triton())
