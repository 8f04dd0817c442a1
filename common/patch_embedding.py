"""A vision tower's patch embedding as the matrix product that it is.

The families write it as a convolution over three dimensions whose stride is its kernel, of patches
that lie side by side already. Convolutions take four times as long for it on a CPU; on GPUs some
versions of cuDNN and PyTorch have no fast one in bfloat16 (pytorch issues 166643, 174051).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from common.forwards import with_forward


def multiply_patches(model: nn.Module) -> None:
    """Make every patch embedding of a model compute by one product, with its own parameters.

    Names and values of the parameters stay. What is none of the known form stays as it is.
    """
    for module in model.modules():
        if type(module).__name__.endswith("PatchEmbed") and _is_product(module):
            module.__class__ = _multiplying(type(module))


def _is_product(module: Any) -> bool:
    """Whether each patch is seen once, and nothing beside it."""
    proj = getattr(module, "proj", None)
    return (
        isinstance(proj, nn.Conv3d)
        and proj.stride == proj.kernel_size
        and not any(proj.padding)
        and proj.groups == 1
    )


def _multiplying(plain: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        """[patches, channels * frames * side * side] in any shape -> [patches, width]."""
        weight = self.proj.weight.flatten(1)
        patches = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return functional.linear(patches, weight, self.proj.bias)

    return with_forward(plain, forward)
