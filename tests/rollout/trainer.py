"""The trainer's side of a weight push in plain torch, as any trainer for SGLang would write it.

Its groups are joined as torch has it, or, if they are named so, as our learner's are.
"""

import socket
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from common.push_groups import PREFIX
from common.types import WeightBucket


class Trainer:
    """Rank 0 of one update group."""

    def __init__(self, name: str, world_size: int = 2, timeout_s: float = 20.0) -> None:
        self.name, self.world_size = name, world_size
        self._timeout = timedelta(seconds=timeout_s)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._store = dist.TCPStore(
            "127.0.0.1", self.port, world_size, is_master=True, timeout=self._timeout,
            wait_for_workers=False, master_listen_fd=listening.detach(),
        )  # fmt: skip

    def join(self) -> None:
        """Blocks until all ranks are there."""
        self.connect()
        if self.name.startswith(PREFIX):
            self.send([torch.zeros(1, dtype=torch.uint8)])

    def connect(self) -> None:
        """What joining begins with."""
        self._group, _ = c10d._new_process_group_helper(
            self.world_size,
            0,
            [],
            dist.Backend("gloo"),
            dist.PrefixStore(self.name, self._store),
            group_name=self.name,
            timeout=self._timeout,
        )
        c10d._world.pg_group_ranks[self._group] = {i: i for i in range(self.world_size)}

    def send(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor.contiguous(), src=0, group=self._group)

    def leave(self) -> None:
        dist.destroy_process_group(self._group)

    @property
    def init_body(self) -> dict[str, object]:
        return {
            "master_address": "127.0.0.1",
            "master_port": self.port,
            "rank_offset": 1,
            "world_size": self.world_size,
            "group_name": self.name,
            "backend": "gloo",
        }


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """One bucket: the bytes of the tensors one after the other."""
    return torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])


def manifest(state: dict[str, torch.Tensor]) -> dict[str, list]:
    return {
        "names": list(state),
        "dtypes": [str(t.dtype).removeprefix("torch.") for t in state.values()],
        "shapes": [list(t.shape) for t in state.values()],
    }


def bucket_of(state: dict[str, torch.Tensor]) -> WeightBucket:
    fields = manifest(state)
    return WeightBucket(
        names=tuple(fields["names"]),
        dtypes=tuple(fields["dtypes"]),
        shapes=tuple(tuple(shape) for shape in fields["shapes"]),
        num_bytes=sum(t.numel() * t.itemsize for t in state.values()),
    )


def chunks(state: dict[str, torch.Tensor], count: int) -> list[dict[str, torch.Tensor]]:
    names = list(state)
    size = -(-len(names) // count)
    return [
        {name: state[name] for name in names[start : start + size]}
        for start in range(0, len(names), size)
    ]
