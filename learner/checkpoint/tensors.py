"""Between live tensors, which may be sharded over ranks, and whole ones in files.

Here alone a sharded tensor becomes a whole one, and a whole one is spread over ranks again.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from learner.checkpoint.tensor_files import TensorFiles
from learner.model.ranks import default_group
from learner.model.sharding import gather, local_part


def is_main_rank() -> bool:
    """The one rank that writes files; true without torch.distributed."""
    return rank_here() == 0


def rank_here() -> int:
    """0 without torch.distributed."""
    return dist.get_rank(default_group()) if default_group() is not None else 0


class HostMemory:
    """Whole copies in main memory, which the next copies of the same tensors use again.

    Fresh pages would cost more than the copying.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def whole(self, key: str, tensor: Tensor) -> Tensor | None:
        """Copy a tensor; every rank must ask for the same ones in the same order.

        Args:
            key: names the copy; the one before under this key is overwritten.

        Returns:
            The whole tensor on the CPU on the main rank, None on the others.
        """
        tensor = gather(tensor)
        if not is_main_rank():
            return None
        host = self._tensors.get(key)
        if host is None or (host.dtype, host.shape) != (tensor.dtype, tensor.shape):
            host = self._tensors[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return host.copy_(tensor)


@torch.no_grad()
def fill(target: Tensor, files: TensorFiles, name: str) -> None:
    """Put a tensor of some files into a live one; of a sharded one each rank reads its part only.

    Raises:
        TypeError: it is sharded in a way that is neither Shard nor Replicate.
    """
    local_part(target).copy_(_read_as(target, files, name))


@torch.no_grad()
def is_close(live: Tensor, files: TensorFiles, name: str, rounding: float = 1e-5) -> bool:
    """Whether this rank's part of a live tensor is that of the files, but for rounding."""
    local = local_part(live)
    stored = _read_as(live, files, name).to(local.device)
    return torch.allclose(local, stored, rtol=rounding, atol=1e-5)


def _read_as(tensor: Tensor, files: TensorFiles, name: str) -> Tensor:
    """A tensor of the files, or the part of it that this rank holds of `tensor`."""
    if not isinstance(tensor, DTensor):
        return files[name]
    if tensor.to_local().numel() == 0:
        return torch.empty_like(tensor.to_local(), device="cpu")
    return files.read_part(name, _part_of_whole(tensor))


def _part_of_whole(tensor: DTensor) -> tuple[slice, ...]:
    """Which part of the whole this rank holds: cut along each axis of the mesh in its turn."""
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
