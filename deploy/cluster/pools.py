"""The pools of a run: how many processes of which kind, and what each needs of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from common.cluster_config import PoolSection
from common.config import RunConfig

PoolName = Literal["broker", "rollout", "learner"]


@dataclass(frozen=True)
class Pool:
    """Processes of one kind. They are placed together, or each by itself (`nodes` None)."""

    name: PoolName
    processes: int
    cpus: float  # a process
    gpus: float  # a process
    nodes: int | None  # machines to spread them over evenly; None for wherever there is room
    labels: Mapping[str, str] = field(default_factory=dict)  # that those machines have

    def process_names(self) -> list[str]:
        return [process_name(self.name, rank) for rank in range(self.processes)]


def process_name(pool: PoolName, rank: int) -> str:
    """A process's name in logs, status and commands: broker, rollout-0, ..., learner-0, ..."""
    return "broker" if pool == "broker" else f"{pool}-{rank}"


def pools_of(config: RunConfig, reserves_cpus: bool = True) -> list[Pool]:
    """The pools of a run, those first that are hardest to place: they need whole machines.

    Args:
        reserves_cpus: false on one machine, where that could only keep a process from starting.
    """
    pools = [
        _pool("learner", config.learner.ranks, config.learner_pool, nodes=1),
        _pool("rollout", config.rollout.servers, config.rollout_pool),
        _pool("broker", 1, config.broker_pool),
    ]
    return pools if reserves_cpus else [replace(pool, cpus=0.0) for pool in pools]


def _pool(name: PoolName, processes: int, section: PoolSection, nodes: int | None = None) -> Pool:
    labels = dict(label.split("=", 1) for label in section.labels)
    nodes = section.nodes or nodes
    if nodes is not None:
        nodes = min(nodes, processes)  # a machine without a process is not needed
    return Pool(name, processes, section.cpus, section.gpus, nodes, labels)
