"""Memory where the model's tensors lie as in a bucket, so that one broadcast fills them.

A bucket is its tensors' bytes one after the other. Tensors that are moved together into one
allocation in that order stay there: the next bucket of the same tensors is received into the
model itself. Nothing is kept beside the model, whose tensors alone hold the memory; what they
leave behind when buckets are cut otherwise is freed with the last tensor that has lain there.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.image_text_model import ImageTextModel
from common.served_names import pushed_name


@dataclass(frozen=True)
class _Part:
    """A tensor of the model, and where in the bucket its bytes begin."""

    tensor: Tensor
    start: int


@torch.no_grad()
def bucket_in_model(
    model: ImageTextModel,
    names: Sequence[str],
    dtypes: Sequence[torch.dtype],
    shapes: Sequence[Sequence[int]],
) -> Tensor | None:
    """The memory of the model's tensors of these names as one bucket: uint8 [bytes of all].

    What is written there is in the model. The first call moves the tensors together, which changes
    no value; parameters and buffers stay the objects that they are (a tied head that is its
    embedding stays tied), and the memory before is freed as they are moved, one after the other.

    Args:
        model: state_dict(keep_vars=True) gives the tensors themselves; what is not in it, as
            buffers that are not persistent, is not touched.
        names: in the order of their bytes, a state_dict's or those of a checkpoint.

    Returns:
        None, and nothing is changed, if a broadcast cannot go there: a name is unknown or comes
        twice, a dtype or shape is not the model's, a tensor is not contiguous or not on the CPU,
        or would not begin at a multiple of its element's size, or tensors overlap in memory.
    """
    state = {pushed_name(name): t for name, t in model.state_dict(keep_vars=True).items()}
    parts = _parts(state, names, dtypes, shapes)
    if not parts:
        return None
    present = _as_it_lies(parts)
    if present is not None:
        return present
    return None if _overlap(state.values()) else _moved_together(parts)


def _parts(
    state: Mapping[str, Tensor],
    names: Sequence[str],
    dtypes: Sequence[torch.dtype],
    shapes: Sequence[Sequence[int]],
) -> list[_Part] | None:
    parts: list[_Part] = []
    start = 0
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        tensor = state.get(pushed_name(name))
        if tensor is None or not _can_be_sent(tensor, dtype, shape) or start % dtype.itemsize:
            return None
        parts.append(_Part(tensor, start))
        start += tensor.nbytes
    # A tied head beside its embedding: two parts of the bucket for one tensor.
    is_any_twice = len({id(part.tensor) for part in parts}) < len(parts)
    return None if is_any_twice else parts


def _can_be_sent(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> bool:
    return (
        tensor.dtype == dtype
        and list(tensor.shape) == list(shape)
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and tensor.numel() > 0  # an empty one lies nowhere
    )


def _as_it_lies(parts: Sequence[_Part]) -> Tensor | None:
    """The bucket, uint8 [bytes], if the parts lie as in one and nothing else lies there."""
    storage = parts[0].tensor.untyped_storage()
    begin = storage.data_ptr()
    if storage.nbytes() != _num_bytes(parts):
        return None
    if any(part.tensor.data_ptr() != begin + part.start for part in parts):
        return None
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _moved_together(parts: Sequence[_Part]) -> Tensor:
    """The bucket, uint8 [bytes], after the parts have been moved into it."""
    bucket = torch.empty(_num_bytes(parts), dtype=torch.uint8)
    for part in parts:
        tensor = part.tensor
        room = bucket[part.start : part.start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = room.copy_(tensor)
    return bucket


def _num_bytes(parts: Sequence[_Part]) -> int:
    return parts[-1].start + parts[-1].tensor.nbytes


def _overlap(tensors: Iterable[Tensor]) -> bool:
    """Whether different tensors have memory in common: moving one would part it from the other."""
    different = {id(tensor): tensor for tensor in tensors}.values()
    stretches = sorted((t.data_ptr(), t.data_ptr() + _extent(t)) for t in different)
    return any(after[0] < before[1] for before, after in itertools.pairwise(stretches))


def _extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last one."""
    if math.prod(tensor.shape) == 0:
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize
