"""The learner's ranks: several processes that train one model, each on its share of a step.

They are started as torchrun does it, by environment variables; without those there is one rank and
no process group. Collectives that carry numbers between ranks live here, so that tensors on the
CPU go through gloo also where the model's go through NCCL.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, TCPStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from common.addresses import join_address
from common.errors import ConfigError, VisionOpdError
from common.network import gloo_towards

MESH_DIMENSION = "ranks"
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIGNS_OF_A_LOST_RANK = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Application timeout",
    "wait timeout",
    "timed out after",
    "Connection refused",
)
_BACKLOG = 1024
_TORCHRUN_LISTENS = "TORCHELASTIC_USE_AGENT_STORE"


class RankError(VisionOpdError):
    """Another rank died, or was silent for longer than the timeout."""


@dataclass(frozen=True)
class Ranks:
    """This process among the learner's ranks, and what they exchange.

    `any`, `agree`, `sum`, `greatest`, `gathered`, `gathered_json` and `meet` are collectives of the
    main thread: all ranks call them in the same order. One rank without a group answers itself.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout_s: float
    mesh: DeviceMesh | None = None  # as `_mesh` makes it; None for one rank without a group
    group: dist.ProcessGroup | None = None  # the default group; None for one rank without a group

    @property
    def writes(self) -> bool:
        """Whether this is rank 0, which talks to broker and rollout and writes the run's files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return bool(self.agree(int(flag)))

    def agree(self, number: int) -> int:
        """The greatest of all ranks' numbers.

        For loops with collectives inside: ranks with fewer micro-batches run dummies (shares 0) up
        to it.
        """
        if self.group is None:
            return number
        most = torch.tensor(number, dtype=torch.int64)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        return int(most)

    def meet(self) -> None:
        """Return when all ranks have come."""
        self.agree(0)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the ranks, number by number, in float64; every rank gives as many numbers.

        For denominators and figures of a whole step.
        """
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def greatest(self, numbers: Sequence[float]) -> list[float]:
        """The greatest over the ranks, number by number, in float64."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor by rank; all have one shape and dtype."""
        if self.group is None:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(found, tensor, group=self.group)
        return found

    def gathered_json(self, value: Any) -> list[Any]:
        """Every rank's value by rank; it travels as JSON, with NaN and infinity."""
        if self.group is None:
            return [value]
        content = json.dumps(value).encode()
        padded = bytearray(content.ljust(self.agree(len(content))))
        found = self.gathered(torch.frombuffer(padded, dtype=torch.uint8))
        return [json.loads(tensor.numpy().tobytes()) for tensor in found]

    def side_group(self, timeout: timedelta) -> dist.ProcessGroup | None:
        """A second group of the same ranks, on CPUs, for collectives of another thread.

        All ranks make it. None means that this rank is alone.
        """
        if self.world_size == 1:
            return None
        with gloo_towards(os.environ["MASTER_ADDR"]):
            group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
        return group

    def close(self) -> None:
        """Leave the group. Closing twice is harmless."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group()

    def _reduced(self, numbers: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        found = torch.tensor(list(numbers), dtype=torch.float64)
        if self.group is not None:
            dist.all_reduce(found, operation, group=self.group)
        return found.tolist()


ALONE = Ranks(0, 1, torch.device("cpu"), timeout_s=0.0)  # one rank without a group, on the CPU


def init_ranks(
    timeout_s: float,
    device: torch.device | None = None,
    needs_group: bool = False,
    shard_ranks: int | None = None,
) -> Ranks:
    """Join the other ranks, if the environment says that there are any.

    Args:
        timeout_s: seconds after which a rank that is waited for counts as lost, here and in every
            collective of the default group.
        device: "cuda" becomes the GPU number LOCAL_RANK; None means the CPU.
        needs_group: a single rank gets a group as well (sharding with offload needs one).
        shard_ranks: over how many ranks the model is to be sharded; None means over those of a
            machine where there are several machines with as many each, else over all.

    Raises:
        ConfigError: the environment is incomplete, or a number in it or `shard_ranks` cannot be.
        RankError: the others did not come in time.
    """
    device = device or torch.device("cpu")
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if "RANK" not in variables and "WORLD_SIZE" not in variables:
        return _alone(timeout_s, device, needs_group)
    rank, world_size, local_rank = _numbers(variables)
    if world_size == 1:
        return _alone(timeout_s, _of_rank(device, local_rank), needs_group)
    device = _of_rank(device, local_rank)
    address = join_address(variables["MASTER_ADDR"], variables["MASTER_PORT"])
    try:
        # No device_id: with one, NCCL would split the group of weight pushes off this group.
        with gloo_towards(variables["MASTER_ADDR"]):
            dist.init_process_group(
                _backend(device),
                store=_meeting_place(variables, timedelta(seconds=timeout_s)),
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout_s),
            )
    except ConfigError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise RankError(
            f"rank {rank} of {world_size} did not meet the others at {address} within "
            f"{timeout_s:g} s: {_short(error)} Fix: see the logs of the other ranks; is "
            "MASTER_ADDR reachable from here?"
        ) from error
    return _in_default_group(rank, world_size, device, timeout_s, shard_ranks)


@contextlib.contextmanager
def rank_failures(ranks: Ranks, doing: str) -> Iterator[None]:
    """Say which rank was doing what when torch.distributed lost another rank.

    Raises:
        RankError: in place of torch's error. Other errors pass.
    """
    try:
        yield
    except RuntimeError as error:  # torch's own (DistError and its kin) are of this kind
        if ranks.world_size == 1 or not _is_of_a_lost_rank(error):
            raise
        raise RankError(
            f"rank {ranks.rank} of {ranks.world_size} lost another rank in {doing} (it died, or "
            f"was silent for {ranks.timeout_s:g} s): {_short(error)} Fix: see the other ranks' "
            "logs for the first error, then start the run again with run.resume = true"
        ) from error


def _alone(timeout_s: float, device: torch.device, needs_group: bool) -> Ranks:
    if not needs_group:
        return Ranks(0, 1, device, timeout_s)
    dist.init_process_group(
        _backend(device),
        store=HashStore(),
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=timeout_s),
    )
    return _in_default_group(0, 1, device, timeout_s)


def _in_default_group(
    rank: int,
    world_size: int,
    device: torch.device,
    timeout_s: float,
    shard_ranks: int | None = None,
) -> Ranks:
    mesh = _mesh(device, world_size, shard_ranks or ranks_of_a_machine(_machine_of_each_rank()))
    return Ranks(rank, world_size, device, timeout_s, mesh, dist.group.WORLD)


def _mesh(device: torch.device, world_size: int, shard_ranks: int) -> DeviceMesh:
    """A mesh [ranks], or [replicas, ranks] of replicas sharded over neighbours (HSDP)."""
    if world_size % shard_ranks:
        raise ConfigError(
            f"learner.shard_ranks = {shard_ranks}: {world_size} ranks cannot be divided into "
            "replicas of as many. Fix: a divisor of learner.ranks"
        )
    if shard_ranks == world_size:
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=(MESH_DIMENSION,))
    shape = (world_size // shard_ranks, shard_ranks)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicas", MESH_DIMENSION))


def ranks_of_a_machine(machines: Sequence[int]) -> int:
    """The number of ranks to shard over so that only gradients travel between machines.

    All of them, where there is one machine, or machines with one rank, which could not hold the
    model whole, or where machines differ.

    Args:
        machines: of each rank, a number that tells machines apart.
    """
    size = list(machines).count(machines[0])
    blocks = [set(machines[start : start + size]) for start in range(0, len(machines), size)]
    are_equal = all(len(block) == 1 for block in blocks) and len(machines) == size * len(blocks)
    are_apart = len(set.union(*blocks)) == len(blocks)
    return size if size > 1 and are_equal and are_apart else len(machines)


def _machine_of_each_rank() -> list[int]:
    """A number for each rank's machine, from its boot: containers of one share its GPUs' links."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    own = int.from_bytes(hashlib.sha256(boot).digest()[:7], "big")
    found = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(found, torch.tensor([own]))
    return [int(machine) for machine in found]


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _numbers(variables: Mapping[str, str]) -> tuple[int, int, int]:
    if missing := [name for name in _VARIABLES if name not in variables]:
        raise ConfigError(
            f"environment: {', '.join(variables)} set but not {', '.join(missing)}. "
            "Fix: start the ranks with torchrun, or unset RANK and WORLD_SIZE for a single one"
        )
    try:
        rank, world_size, local_rank = (int(variables[name]) for name in _VARIABLES[:3])
        _ = int(variables["MASTER_PORT"])
    except ValueError as error:
        raise ConfigError(
            f"environment: {_short(error)}. Fix: RANK, WORLD_SIZE, LOCAL_RANK and MASTER_PORT "
            "are whole numbers"
        ) from error
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"environment: RANK = {rank} with WORLD_SIZE = {world_size}. "
            "Fix: ranks are numbered from 0"
        )
    return rank, world_size, local_rank


def _of_rank(device: torch.device, local_rank: int) -> torch.device:
    if device.type != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"environment: LOCAL_RANK = {local_rank} but this machine has "
            f"{torch.cuda.device_count()} usable GPUs. Fix: start as many ranks as GPUs"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _meeting_place(variables: Mapping[str, str], timeout: timedelta) -> TCPStore:
    """The store through which the ranks find one another.

    torch's own would listen on all addresses of rank 0's machine.

    Raises:
        ConfigError: MASTER_ADDR is no address of the machine of rank 0.
        OSError, RuntimeError: its port is taken, or no rank listens there in time.
    """
    host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    is_host = int(variables["RANK"]) == 0 and os.environ.get(_TORCHRUN_LISTENS) != "True"
    return TCPStore(
        host,
        port,
        int(variables["WORLD_SIZE"]),
        is_master=is_host,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=_listen(host, port) if is_host else None,
    )


def _listen(host: str, port: int) -> int:
    """The descriptor of a socket that listens there."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG).detach()
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        raise ConfigError(
            f"environment: MASTER_ADDR = {host} is no address of this machine, which has RANK = 0. "
            "Fix: set MASTER_ADDR to an address of rank 0's machine"
        ) from error


def _is_of_a_lost_rank(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(
        sign in str(error) for sign in _SIGNS_OF_A_LOST_RANK
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
