"""A torch.distributed group of its own for weight pushes: the learner is rank 0.

It neither needs nor touches a default process group. The other side joins as SGLang does: TCP
rendezvous at the announced address, then a group whose keys carry the group's name as a prefix.

torch's rendezvous and gloo ask nobody who they are, nor encrypt: SGLang joins this way alone, so it
is not ours to change. The group listens at one address only, on loopback unless the run's broker
has left it (`learner.main` checks it), and off loopback the network itself must be trusted. On
loopback another user of the machine can knock: a connection that says nothing, or nothing that
belongs, holds up no push. Whoever speaks torch's protocol can read the store and, in the moment
when a group is formed, disturb it or take a rank's place. The push then fails within its timeout
and is made again in a new group, and weights from elsewhere pass neither checksums nor probe; but
the model's may have been read. Where users of one machine must not, weights.transport = "files"
with a folder of mode 700 has no port.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import distributed_c10d

from common.network import gloo_towards, listening_socket


class PushGroup:
    """One group from rendezvous to the end. Every call ends within `timeout_s` or raises.

    Listens as soon as it is made, so that `port` can be announced before anyone is waited for.
    """

    def __init__(
        self, name: str, host: str, world_size: int, backend: str, timeout_s: float
    ) -> None:
        self.name = name
        self.world_size = world_size
        self._host = host
        self._backend = backend
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
        helper = distributed_c10d._new_process_group_helper
        assert self._store is not None, "it is closed"
        with _blocking_waits(), gloo_towards(self._host):
            group, _ = helper(
                self.world_size,
                0,
                [],
                dist.Backend(self._backend),
                PrefixStore(self.name, self._store),
                group_name=distributed_c10d.GroupName(self.name),
                timeout=self._timeout,
            )
        distributed_c10d._world.pg_group_ranks[group] = {i: i for i in range(self.world_size)}
        self._group = group

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
        if group is not None and is_broken and self._backend == "nccl":
            distributed_c10d._abort_process_group(group)
        elif group is not None:
            dist.destroy_process_group(group)
        self._store = None


@contextlib.contextmanager
def _blocking_waits() -> Iterator[None]:
    """For NCCL, which reads this when a group is made: a wait ends with an error after the timeout,
    where its watchdog would end the whole process.
    """
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_NCCL_BLOCKING_WAIT"]
