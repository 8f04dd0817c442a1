"""The ways to divide machines between rollout and learner."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config import RunConfig
from common.engines import engine_of
from deploy.cluster.nodes import Node
from deploy.planning.devices import Device, cores, gpu

GPUS_A_NODE = 8  # GPUs of a machine, unless the configuration says otherwise


@dataclass(frozen=True)
class Layout:
    """One split of machines between rollout and learner."""

    servers: int
    ranks: int
    server_gpus: int  # GPUs that one server is split over; 0 means that it computes on cores
    learner_nodes: int = 1
    is_shared: bool = False  # whether both sides are on the same GPUs, in turn

    @property
    def rollout_gpus(self) -> int:
        return self.servers * self.server_gpus

    def shards(self, config: RunConfig) -> int:
        """Ranks that hold one copy of the model between them (`learner.shard_ranks`)."""
        a_node = self.ranks // self.learner_nodes
        return config.learner.shard_ranks or (a_node if a_node > 1 else self.ranks)


@dataclass(frozen=True)
class Machines:
    """Machines to divide, with GPUs of one kind."""

    rollout_device: Device
    learner_device: Device
    gpus: int  # 0 means that the processes stay as configured
    gpus_a_node: int = GPUS_A_NODE
    source: str = ""

    @property
    def has_gpus(self) -> bool:
        return self.gpus > 0

    @property
    def kind(self) -> str:
        """What one process computes on."""
        if self.has_gpus:
            return self.learner_device.name
        return f"{self.rollout_device.name} a server, {self.learner_device.name} a learner rank"


def described_machines(nodes: Sequence[Node], gpu_name: str | None = None) -> Machines:
    """The GPUs of a described cluster, of which the smallest kind counts.

    Raises:
        ConfigError: a GPU that is not known.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if not with_gpus:
        return Machines(cores(1), cores(1), 0, source="a described cluster without GPUs")
    devices = [gpu(gpu_name or node.gpu or "H100", node.gpu_gib) for node in with_gpus]
    device = min(devices, key=lambda d: (d.operations, d.memory))
    return Machines(
        device,
        device,
        sum(node.gpus for node in with_gpus),
        min(node.gpus for node in with_gpus),
        f"the described cluster: {len(with_gpus)} machines with GPUs",
    )


def configured_machines(config: RunConfig, gpus: int | None, gpu_name: str | None) -> Machines:
    """Count the named GPUs, those that pools ask for, or cores; where no cluster is described.

    Raises:
        ConfigError: a GPU that is not known.
    """
    asked = config.learner.ranks * config.learner_pool.gpus
    asked += config.rollout.servers * config.rollout_pool.gpus
    total = gpus or round(asked)
    if not total:
        return Machines(
            cores(config.rollout.threads or 1),
            cores(config.learner.threads or 1),
            0,
            source="no GPU: the processes as configured",
        )
    device = gpu(gpu_name or "H100")
    where = "--gpus" if gpus else "the pools of the configuration"
    return Machines(device, device, total, min(total, GPUS_A_NODE), f"{total} GPUs, by {where}")


def configured_layout(config: RunConfig, machines: Machines) -> Layout:
    """The split that the configuration asks for, its ranks on as few machines as hold them."""
    ranks, servers = config.learner.ranks, config.rollout.servers
    if not machines.has_gpus:
        return Layout(servers, ranks, 0)
    nodes = min(config.learner_pool.nodes or -(-ranks // machines.gpus_a_node), ranks)
    if ranks % nodes:  # machines that differ: the learner then shards over all ranks
        nodes = 1
    return Layout(servers, ranks, engine_of(config).server_gpus(config)[0], nodes)


def layouts(config: RunConfig, machines: Machines) -> list[Layout]:
    """Every split that can be placed. On cores: the one that is configured."""
    if not machines.has_gpus:
        return [configured_layout(config, machines)]
    a_server, _ = engine_of(config).server_gpus(config)
    found = []
    for servers in range(1, (machines.gpus - 1) // a_server + 1):
        ranks = machines.gpus - servers * a_server
        split = _placed(config, machines, servers, ranks, a_server)
        if split is not None:
            found.append(split)
    if machines.gpus >= a_server:
        servers = machines.gpus // a_server
        split = _placed(config, machines, servers, machines.gpus, a_server, is_shared=True)
        if split is not None:
            found.append(split)
    return found


def _placed(
    config: RunConfig,
    machines: Machines,
    servers: int,
    ranks: int,
    server_gpus: int,
    is_shared: bool = False,
) -> Layout | None:
    """A split; None means ranks without groups, or not spread evenly over machines or shards."""
    if ranks > config.learner.groups_per_step:
        return None
    nodes = -(-ranks // machines.gpus_a_node)
    split = Layout(servers, ranks, server_gpus, nodes, is_shared)
    return None if ranks % nodes or ranks % split.shards(config) else split
