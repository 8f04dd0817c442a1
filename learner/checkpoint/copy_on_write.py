"""Tensors as they are at one instant, for a thread that writes them while training goes on."""

import threading

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from learner.checkpoint.tensor_files import Form, Part
from learner.model.sharding import local_part


class CopyOnWrite:
    """This rank's part of some tensors.

    Args:
        part: that it has of each of them.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._tensors: dict[str, tuple[Tensor, torch.dtype]] = {}
        self._is_secured = False
        self._lock = threading.Lock()
        self._stream = _stream_after_this_one()

    def add(self, key: str, tensor: Tensor, dtype: torch.dtype | None = None) -> Form:
        """A live tensor, sharded or not; whole its form.

        Args:
            dtype: that it is to be read as; its own by default.
        """
        form = Form(dtype or tensor.dtype, tuple(tensor.shape))
        self._tensors[key] = (_rows_here(tensor.detach(), form, self._part), form.dtype)
        return form

    def read(self, key: str) -> Tensor:
        """This rank's rows as they were, on the CPU; they stay when the live ones change."""
        with self._lock:
            tensor, dtype = self._tensors[key]
            return tensor if self._is_secured else self._copied(tensor, dtype)

    def secure(self) -> None:
        """From now on the live tensors may change."""
        with self._lock:
            if not self._is_secured:
                self._tensors = {
                    key: (self._copied(tensor, dtype), dtype)
                    for key, (tensor, dtype) in self._tensors.items()
                }
            self._is_secured = True

    def release(self) -> None:
        """Nothing will be read any more."""
        with self._lock:
            self._tensors.clear()
            self._is_secured = True

    def _copied(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        host = torch.empty(tensor.shape, dtype=dtype, pin_memory=tensor.is_cuda)
        with torch.cuda.stream(self._stream):  # nothing without a GPU
            return host.copy_(tensor)


def _rows_here(tensor: Tensor, form: Form, part: Part) -> Tensor:
    begin, end = form.rows(part)
    local = local_part(tensor)
    if isinstance(tensor, DTensor) and any(isinstance(p, Shard) for p in tensor.placements):
        if tuple(local.shape) != (end - begin, *form.shape[1:]):
            raise TypeError(
                f"a tensor is placed as {tensor.placements}. Fix: shard with Shard(0) alone"
            )
        return local
    return local[begin:end] if form.shape else local


def _stream_after_this_one() -> torch.cuda.Stream | None:
    if not torch.cuda.is_available():
        return None
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    return stream
