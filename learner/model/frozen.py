"""Weights that are not trained: held in the dtype that they are computed in, once for two models.

Masters are float32 because an optimizer's steps are narrower than bfloat16. Weights that get
no steps are held in the compute dtype. Since they never change, a teacher that starts as a copy of
the student can use the student's: under LoRA all but the adapters.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.weight_dtypes import is_computed_in_float32


def narrow_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold what is not trained in `dtype`, but for what is always computed with in float32.

    Call it before the teacher is made and before `shard_model`.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            parameter.data = as_computed(name, parameter, dtype)


def as_computed(name: str, tensor: Tensor, dtype: torch.dtype, is_copy: bool = False) -> Tensor:
    """A tensor as the forward pass has it: floats in `dtype`, decays in float32."""
    return tensor.detach().to(_computed_dtype(name, tensor, dtype), copy=is_copy)


def shareable(student: nn.Module, dtype: torch.dtype) -> frozenset[str]:
    """Names of the student's parameters that a teacher in `dtype` can use as they are."""
    return frozenset(
        name
        for name, parameter in student.named_parameters()
        if not parameter.requires_grad
        and parameter.dtype == _computed_dtype(name, parameter, dtype)
    )


def share_shards(model: nn.Module, student: nn.Module, names: frozenset[str]) -> frozenset[str]:
    """Let a sharded model use a sharded student's parameters: one memory for both.

    Before sharding they were the same parameters; sharding has copied them. One whose rows the
    ranks do not share evenly keeps its copy: FSDP2 pads it in new memory.

    Args:
        names: of the parameters that were the same.

    Returns:
        Those that are the same again.
    """
    students = dict(student.named_parameters())
    even = {name: students[name] for name in names if _is_even(students[name])}
    ours = {id(p): even[name] for name, p in model.named_parameters() if name in even}
    if not ours:
        return frozenset()
    for module in model.modules():  # a tied one is in two
        for leaf, own in module._parameters.items():
            module._parameters[leaf] = ours.get(id(own), own)
    # FSDP2 looks for exchanged parameters whenever a module is moved, be it to where it is.
    model.to(next(model.parameters()).device)
    return frozenset(even)


def _computed_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    is_cast = tensor.is_floating_point() and not is_computed_in_float32(name)
    return dtype if is_cast else tensor.dtype


def _is_even(parameter: Tensor) -> bool:
    if not isinstance(parameter, DTensor):
        return False
    return parameter.shape[0] % parameter.device_mesh.size(-1) == 0
