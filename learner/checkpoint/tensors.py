"""Tensors of files into live ones, which may be sharded: each rank reads its own part."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from learner.checkpoint.tensor_files import TensorFiles
from learner.model.sharding import local_part


@torch.no_grad()
def fill(target: Tensor, files: TensorFiles, name: str) -> None:
    """Put a tensor of some files into a live one; of a sharded one each rank reads its part only.

    Raises:
        TypeError: it is sharded in a way that is neither Shard nor Replicate.
    """
    local = local_part(target).detach()
    if local.numel():
        files.read_into(local, name, _part_of_whole(target))


@torch.no_grad()
def is_close(live: Tensor, files: TensorFiles, name: str, rounding: float = 1e-5) -> bool:
    """Whether this rank's part of a live tensor is that of the files, but for rounding."""
    found = torch.empty_like(live)
    fill(found, files, name)
    return torch.allclose(local_part(live), local_part(found), rtol=rounding, atol=1e-5)


def _part_of_whole(tensor: Tensor) -> tuple[slice, ...] | None:
    """Which part of the whole this rank holds: cut along each axis of the mesh in its turn."""
    if not isinstance(tensor, DTensor):
        return None
    bounds = [(0, size) for size in tensor.shape]
    for axis, placement in enumerate(tensor.placements):
        if type(placement) is Replicate:
            continue
        if type(placement) is not Shard:
            raise TypeError(
                f"a tensor is placed as {placement}. Fix: shard with Shard and Replicate alone"
            )
        begin, end = bounds[placement.dim]
        step = -(-(end - begin) // tensor.device_mesh.size(axis))  # as torch.chunk divides
        begin = min(end, begin + step * tensor.device_mesh.get_local_rank(axis))
        bounds[placement.dim] = (begin, min(end, begin + step))
    part = tuple(slice(begin, end) for begin, end in bounds)
    shape = tuple(end - begin for begin, end in bounds)
    assert shape == tuple(tensor.to_local().shape), (shape, tensor.to_local().shape)
    return part
