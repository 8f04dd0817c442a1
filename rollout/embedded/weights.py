"""Weights from the trainer: join its torch.distributed group, take buckets, load, checksum."""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from common import push_groups
from common.addresses import join_address
from common.families import family_named
from common.image_text_model import ImageTextModel
from common.network import gloo_towards
from common.served_names import checksum, padding_rows, pushed_name, served_tensors
from common.weight_dtypes import is_served_in_float32

logger = logging.getLogger(__name__)
NamedTensors = list[tuple[str, Tensor]]


class UpdateGroup:
    """A process group beside any default one; rank 0 is the trainer.

    Blocks until every rank has joined. The key prefixes of the rendezvous are those that SGLang
    and trainers for it use, so it is built from torch's own (private) pieces.

    Raises:
        RuntimeError, ValueError, dist.DistError: not all ranks came in time, or a used name.
    """

    def __init__(
        self, host: str, port: int, rank: int, world_size: int, name: str, backend: str,
        timeout_s: float,
    ) -> None:  # fmt: skip
        timeout = timedelta(seconds=timeout_s)
        address = f"tcp://{join_address(host, port)}"
        store, _, _ = next(rendezvous(address, rank, world_size, timeout=timeout))
        store.set_timeout(timeout)

        def make() -> push_groups.Made:
            with gloo_towards(host):
                made: push_groups.Made = c10d._new_process_group_helper(
                    world_size,
                    rank,
                    [],
                    dist.Backend(backend),
                    PrefixStore(name, store),
                    group_name=name,  # type: ignore[arg-type]  # a NewType of str, private as well
                    backend_options=None,
                    timeout=timeout,
                )
            return made

        self._group, _ = push_groups.join(make, name, timeout_s)

    def receive(
        self, names: Sequence[str], dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[int]]
    ) -> NamedTensors:
        """Receive one broadcast a tensor, in order."""
        tensors = [torch.empty(*s, dtype=d) for d, s in zip(dtypes, shapes, strict=True)]
        for tensor in tensors:
            self._broadcast(tensor)
        return list(zip(names, tensors, strict=True))

    def receive_flat(
        self, names: Sequence[str], dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[int]]
    ) -> NamedTensors:
        """Receive one broadcast of the tensors' bytes, one after the other."""
        sizes = [math.prod(s) * d.itemsize for d, s in zip(dtypes, shapes, strict=True)]
        bucket = torch.empty(sum(sizes), dtype=torch.uint8)
        self._broadcast(bucket)
        parts = torch.split(bucket, sizes)
        # A copy, because a view needs an offset that is a multiple of the element's size.
        return [
            (name, part.clone().view(dtype).view(*shape))
            for name, part, dtype, shape in zip(names, parts, dtypes, shapes, strict=True)
        ]

    def receive_into(self, bucket: Tensor) -> None:
        """Receive one broadcast of a bucket's bytes into memory that is there: uint8 [bytes].

        If it fails half-way, a part of the memory is new.

        Raises:
            RuntimeError: the trainer left, or was silent for too long.
        """
        self._broadcast(bucket)

    def _broadcast(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, src=0, group=self._group)

    def close(self) -> None:
        push_groups.leave(self._group)


def parse_dtypes(names: Iterable[str]) -> list[torch.dtype]:
    """torch dtypes from "float32" or "torch.float32". Raises ValueError."""
    dtypes = [getattr(torch, name.removeprefix("torch."), None) for name in names]
    if not all(isinstance(dtype, torch.dtype) for dtype in dtypes):
        raise ValueError(f"dtypes must be names of torch dtypes, got {list(names)}")
    return [dtype for dtype in dtypes if dtype is not None]


def take_served_dtypes(model: ImageTextModel, dtype: torch.dtype) -> None:
    """Cast a float32 model's parameters to `dtype`, but for those that SGLang never casts.

    Buffers stay: rotary frequencies need float32, as they do where transformers casts.
    """
    for name, parameter in model.named_parameters():
        if not is_served_in_float32(name):
            parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def load_tensors(model: ImageTextModel, tensors: NamedTensors) -> None:
    """Copy tensors into the model by name, a state_dict's or a checkpoint's: all, or none.

    A tied head shares its embedding's storage, so either name loads both.

    As in SGLang, a name that the model does not have is passed over without a word; only the
    checksums show it.

    Raises:
        ValueError: a tensor has another shape.
    """
    state = {pushed_name(name): tensor for name, tensor in model.state_dict().items()}
    tensors = [(pushed_name(name), tensor) for name, tensor in tensors]
    known = [(name, tensor) for name, tensor in tensors if name in state]
    for name, tensor in known:
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(state[name].shape)}, received {tuple(tensor.shape)}"
            )
    for name, tensor in known:
        state[name].copy_(tensor)


def load_folder(model: ImageTextModel, folder: str) -> None:
    """Load a Hugging Face folder's weights into `model`.

    Raises:
        OSError, ValueError: no such checkpoint, or one of another model.
    """
    # float32: a tensor that is served in that must not be rounded on the way.
    fresh = type(model).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    load_tensors(model, list(fresh.state_dict().items()))


def checksums(model: ImageTextModel) -> dict[str, str]:
    """Checksum of every tensor that SGLang would serve, by SGLang's name."""
    state = model.state_dict()
    family = family_named(model.config.model_type, "--model-path")
    is_tied = bool(model.config.tie_word_embeddings)
    return {
        served: checksum(_served_bytes(served, [state[name] for name in names]))
        for served, names in served_tensors(state, family, has_tied_head=is_tied).items()
    }


def checksum_report(checksums: dict[str, str]) -> dict[str, Any]:
    """SGLang's account of one rank that holds the whole model."""
    rank_digest = hashlib.sha256(
        "".join(name + checksums[name] for name in sorted(checksums)).encode()
    ).hexdigest()
    place = {
        f"{kind}{name}": value
        for kind in ("tp_", "dp_", "pp_", "")
        for name, value in (("rank", 0), ("size", 1))
    }
    rank = {
        "checksums": checksums,
        "per_gpu_checksum": rank_digest,
        "parallelism_info": [{"role": "target", **place}],
    }
    engine_digest = hashlib.sha256(rank_digest.encode()).hexdigest()
    return {"ranks": [rank], "per_engine_checksum": engine_digest}


def _served_bytes(served: str, parts: Sequence[Tensor]) -> Iterator[bytes | memoryview]:
    for part in parts:
        yield part.contiguous().view(-1).view(torch.uint8).numpy().data
    first = parts[0]
    if first.ndim:
        yield bytes(padding_rows(served, len(first)) * first[0].nbytes)
