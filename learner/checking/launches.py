"""How many kernels a computation launches, counted by its operators, on any device or on none."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts operators that are no views, each a launch or several.

    `devices` are those of their outputs; `names` those of all operators.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.devices: set[str] = set()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        self.names.add(func.overloadpacket.__name__)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.devices.add(tensor.device.type)
        return found
