"""A torch.distributed group of its own for weight pushes: the learner is rank 0.

It neither needs nor touches a default process group. The other side joins as SGLang does: TCP
rendezvous at the announced address, then a group whose keys carry the group's name as a prefix.
Who can join it is in `learner.push`.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import distributed_c10d

from common import push_groups
from common.network import gloo_towards, listening_socket


class PushGroup:
    """One group from rendezvous to the end. Every call ends within `timeout_s` or raises.

    Listens as soon as it is made, so that `port` can be announced before anyone is waited for.

    Args:
        name: new to every rank; `common.push_groups.PREFIX` begins those whose ranks are told.
        within: entered where the group is joined, e.g. a stream of the device. `broadcast` runs
            where it is called.
    """

    def __init__(
        self,
        name: str,
        host: str,
        world_size: int,
        backend: str,
        timeout_s: float,
        within: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.name = name
        self.world_size = world_size
        self._host = host
        self._backend = backend
        self._within = within
        self._timeout = timedelta(seconds=timeout_s)
        self._group: dist.ProcessGroup | None = None
        listening = listening_socket(host)
        self.port: int = listening.getsockname()[1]
        self._store: TCPStore | None = TCPStore(
            host,
            self.port,
            world_size,
            is_master=True,
            timeout=self._timeout,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )

    def join(self) -> None:
        """Wait until every other rank has joined.

        Raises:
            RuntimeError: from torch (DistError and its kin), when one does not come in time.
        """
        timeout_s = self._timeout.total_seconds()
        self._group, _ = push_groups.join(self._make, self.name, timeout_s, self._within)

    def _make(self) -> push_groups.Made:
        assert self._store is not None, "it is closed"
        with gloo_towards(self._host):
            made: push_groups.Made = distributed_c10d._new_process_group_helper(
                self.world_size,
                0,
                [],
                dist.Backend(self._backend),
                PrefixStore(self.name, self._store),
                group_name=distributed_c10d.GroupName(self.name),
                timeout=self._timeout,
            )
        return made

    def broadcast(self, content: Tensor) -> None:
        """Send a tensor to every other rank; RuntimeError when one of them fails or is too slow."""
        assert self._group is not None, "join() comes first"
        work = dist.broadcast(content, src=0, group=self._group, async_op=True)
        assert work is not None
        work.wait(self._timeout)

    def close(self, is_broken: bool = False) -> None:
        """Leave the group and stop listening. Closing twice is harmless.

        Args:
            is_broken: a rank failed. What NCCL still waits for is then given up, not waited for.
        """
        group, self._group = self._group, None
        if group is not None:
            push_groups.leave(group, is_broken)
        self._store = None
