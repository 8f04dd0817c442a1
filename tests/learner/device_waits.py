"""Counts where the host would wait for a GPU, on a CPU, where no tensor tells.

`OnHost` marks tensors that the host keeps: what is computed of them, or made on their device, is
marked too, until it is sent away (`Tensor.to`). Everything else counts as the GPU's.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALWAYS = {
    "_local_scalar_dense",  # item, bool, int, format
    "nonzero",
    "equal",
    "is_nonzero",
    "masked_select",
    "masked_scatter_backward",  # a masked_select inside
    "_unique2",
    "unique_consecutive",
    "unique_dim",
}
_TO_LIST = {"tolist", "numpy", "cpu", "__array__"}


_HOST = torch.device("cpu", 0)  # known by its number; the stand-in for the GPU has none


class OnHost(Tensor):
    device = property(lambda self: _HOST)  # type: ignore[assignment]


def on_host(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(OnHost)


class _Operators(TorchDispatchMode):
    """Also of the backward pass."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and not any(isinstance(tensor, OnHost) for tensor in tensors):
            name = func.overloadpacket.__name__
            by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
                index is not None and index.dtype == torch.bool for index in args[1]
            )
            unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
            if name in _ALWAYS or by_mask or unsized:
                self._counts[name] += 1
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What reads a CPU tensor without an operator."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        is_host = bool(args) and isinstance(args[0], OnHost)
        if name in _TO_LIST and not is_host:
            self._counts[name] += 1
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if kwargs.get("device") == _HOST:
            return on_host(output)
        return output.as_subclass(Tensor) if is_host and name == "to" else output


class DeviceWaits:
    """A context; `counts` by the name of what waits."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._modes = (_Operators(self.counts), _Functions(self.counts))

    def __enter__(self) -> "DeviceWaits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
