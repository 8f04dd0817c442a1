"""Weights as byte buckets: what one push sends, and a snapshot of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.types import WeightBucket

MIB = 2**20


@dataclass(frozen=True)
class Snapshot:
    """Copies of all weights, taken between two steps; training may go on."""

    buckets: tuple[WeightBucket, ...]
    contents: tuple[Tensor, ...]  # uint8 [num_bytes] each


def plan_buckets(
    weights: Mapping[str, Tensor], dtype: torch.dtype, bucket_mib: int
) -> tuple[WeightBucket, ...]:
    """The weights in their order, cut into buckets of at most `bucket_mib`.

    A tensor larger than that gets a bucket of its own. Floating tensors are sent as `dtype`.
    """
    buckets: list[WeightBucket] = []
    names: list[str] = []
    room = 0
    for name, tensor in weights.items():
        num_bytes = _num_bytes(tensor, dtype)
        if names and num_bytes > room:
            buckets.append(_bucket(names, weights, dtype))
            names = []
        if not names:
            room = bucket_mib * MIB
        names.append(name)
        room -= num_bytes
    return (*buckets, _bucket(names, weights, dtype))


@torch.no_grad()
def fill(
    contents: tuple[Tensor, ...],
    buckets: tuple[WeightBucket, ...],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Copy the weights as they are now into their buckets' bytes."""
    for bucket, content in zip(buckets, contents, strict=True):
        offset = 0
        for name in bucket.names:
            tensor = weights[name]
            part = tensor.to(_sent_dtype(tensor, dtype)).reshape(-1).view(torch.uint8)
            content[offset : offset + len(part)].copy_(part)
            offset += len(part)


def _bucket(names: list[str], weights: Mapping[str, Tensor], dtype: torch.dtype) -> WeightBucket:
    tensors = [weights[name] for name in names]
    return WeightBucket(
        names=tuple(names),
        dtypes=tuple(str(_sent_dtype(t, dtype)).removeprefix("torch.") for t in tensors),
        shapes=tuple(tuple(t.shape) for t in tensors),
        num_bytes=sum(_num_bytes(t, dtype) for t in tensors),
    )


def _sent_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


def _num_bytes(tensor: Tensor, dtype: torch.dtype) -> int:
    return tensor.numel() * _sent_dtype(tensor, dtype).itemsize
