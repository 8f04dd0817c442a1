"""Which machines a run asks for where none are there yet: how many, how large, for which pools."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.config import RunConfig
from common.errors import ConfigError
from deploy.cluster.pools import Pool, PoolName, pools_of

_TINY = 1e-9  # shares of a GPU are floats


@dataclass
class Machine:
    """A machine that is asked for, and what is planned to run there."""

    free_gpus: list[float]  # share of each that is still free
    labels: dict[str, str] = field(default_factory=dict)
    cpus: float = 0.0  # that its processes reserve
    pools: list[PoolName] = field(default_factory=list)

    def take(self, pool: Pool, processes: int) -> bool:
        """Plan these processes here; False, and nothing changed, where they do not fit."""
        if any(self.labels.get(key, value) != value for key, value in pool.labels.items()):
            return False
        left = list(self.free_gpus)
        if not all(_take_gpus(left, pool.gpus) for _ in range(processes)):
            return False
        self.free_gpus = left
        self.labels.update(pool.labels)
        self.cpus += pool.cpus * processes
        if pool.name not in self.pools:
            self.pools.append(pool.name)
        return True


def machines_for(config: RunConfig) -> list[Machine]:
    """The fewest machines, all of one size, that hold the pools as the configuration spreads them.

    Pools share a machine if their labels and its GPUs allow it.

    Raises:
        ConfigError: cluster.gpus_per_node is needed and not set, or too small.
    """
    pools = pools_of(config)
    gpus = gpus_per_node(config)
    machines: list[Machine] = []
    for pool in pools:
        # A pool that is spread has each machine once; others go wherever there is room.
        used: list[Machine] = []
        for processes in _portions(pool):
            candidates = [one for one in machines if pool.nodes is None or one not in used]
            used.append(_place(pool, processes, candidates, machines, gpus))
    return machines


def gpus_per_node(config: RunConfig) -> int:
    """GPUs of a machine: as configured, or as many as any pool needs on one machine."""
    if config.cluster.gpus_per_node is not None:
        return config.cluster.gpus_per_node
    pools = pools_of(config)
    for pool in pools:
        if pool.gpus and pool.nodes is None:
            raise ConfigError(
                f"cluster.gpus_per_node is not set, and {pool.name}_pool.nodes is not either: how "
                "many machines to ask for is not known. Fix: set one of them"
            )
    return max(_gpus_of(pool, max(_portions(pool))) for pool in pools)


def _place(
    pool: Pool, processes: int, candidates: Iterable[Machine], machines: list[Machine], gpus: int
) -> Machine:
    for machine in candidates:
        if machine.take(pool, processes):
            return machine
    machine = Machine([1.0] * gpus)
    if not machine.take(pool, processes):
        raise ConfigError(
            f"cluster.gpus_per_node = {gpus}, but {processes} {pool.name} processes on one machine "
            f"need {_gpus_of(pool, processes)} GPUs. Fix: raise {pool.name}_pool.nodes, or lower "
            f"{pool.name}_pool.gpus"
        )
    machines.append(machine)
    return machine


def _portions(pool: Pool) -> list[int]:
    """Processes that stay together on one machine."""
    if pool.nodes is None:
        return [1] * pool.processes
    least, more = divmod(pool.processes, pool.nodes)
    portions = [least + (index < more) for index in range(pool.nodes)]
    return [processes for processes in portions if processes]


def _gpus_of(pool: Pool, processes: int) -> int:
    if pool.gpus >= 1 or not pool.gpus:
        return processes * int(pool.gpus)
    return math.ceil(processes / int(1 / pool.gpus + _TINY))


def _take_gpus(free: list[float], gpus: float) -> bool:
    """Whole GPUs, or a share of a single one, as Ray counts them."""
    whole, share = max(1, int(gpus)), min(gpus, 1.0)
    if not gpus:
        return True
    fitting = [index for index, left in enumerate(free) if left + _TINY >= share][:whole]
    if len(fitting) < whole:
        return False
    for index in fitting:
        free[index] -= share
    return True
