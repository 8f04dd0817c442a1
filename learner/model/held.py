"""Offloaded models stay whole on the GPU from the first micro-batch of a step to the last.

FSDP2 gives up a group's weights after each pass, and sums up its gradients after each backward.
With masters in main memory that is three copies of the model over PCIe for every micro-batch. On
one rank there is room for the compute weights and float32 gradients of the whole model instead
(6 bytes a parameter), so that both cross once a step.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.distributed.fsdp import FSDPModule

Item = TypeVar("Item")


def held_over(model: nn.Module, items: Sequence[Item], is_held: bool) -> Iterator[Item]:
    """The items, each for one forward and backward pass of a sharded model.

    Up to the last backward pass weights stay gathered and gradients are added up where they are
    made, in float32; with it they become those of the shards, and the weights are given up.
    """
    for number, item in enumerate(items):
        if is_held:
            _set(_groups(model), is_held=number < len(items) - 1)
        yield item
    if is_held:
        _give_up(_groups(model))


@contextmanager
def held(model: nn.Module, is_held: bool) -> Iterator[None]:
    """Weights of a sharded model stay gathered over several passes without a gradient."""
    groups = _groups(model) if is_held else []
    _set(groups, is_held=True)
    try:
        yield
    finally:
        _give_up(groups)


def _groups(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _set(groups: Iterable[FSDPModule], is_held: bool) -> None:
    for group in groups:
        group.set_reshard_after_forward(not is_held, recurse=False)
        group.set_reshard_after_backward(not is_held, recurse=False)
        group.set_requires_gradient_sync(not is_held, recurse=False)


def _give_up(groups: Sequence[FSDPModule]) -> None:
    _set(groups, is_held=False)
    for group in groups:
        group.reshard()
