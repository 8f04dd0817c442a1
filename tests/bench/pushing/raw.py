"""The yardstick: torch.distributed's broadcast of the same buckets, and nothing else."""

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HOST = "127.0.0.1"


class RawBroadcast:
    """Rank 0 of the default process group, and the children that are the others."""

    def __init__(self, port: int, receivers: Sequence[Any], timeout_s: float) -> None:
        self._receivers = receivers
        self._timeout_s = timeout_s
        _join(port, 0, 1 + len(receivers), timeout_s)

    def seconds(self, buckets: Sequence[Tensor]) -> float:
        """Until every receiver has every bucket."""
        started = time.monotonic()
        for bucket in buckets:
            dist.broadcast(bucket, src=0)
        return max(child.answer(self._timeout_s) for child in self._receivers) - started


def receive_raw(
    pipe: Any, port: int, rank: int, world_size: int, sizes: tuple[int, ...], timeout_s: float
) -> None:
    """For ever: takes all buckets into one buffer and says when it had the last."""
    torch.set_num_threads(1)
    buffer = torch.zeros(max(sizes), dtype=torch.uint8)
    _join(port, rank, world_size, timeout_s)
    while True:
        for size in sizes:
            dist.broadcast(buffer[:size], src=0)
        pipe.send(time.monotonic())


def leave() -> None:
    """The default process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _join(port: int, rank: int, world_size: int, timeout_s: float) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{HOST}:{port}",
        rank=rank,
        world_size=world_size,
        # Between two repetitions a receiver waits in its first broadcast for as long as ours takes.
        timeout=timedelta(seconds=10 * timeout_s),
    )
