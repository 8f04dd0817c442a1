"""Which processes a run is made of: plain `python -m X.main` commands and their environments.

A command is complete by itself: typed by hand with its environment it does what the launcher does.
Each begins with arguments that say what is run: `--config RUN/config.toml`, or those of a person.
"""

import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.addresses import join_address
from common.cluster_config import PoolSection
from common.config import RunConfig
from common.cpu_threads import sleeping_threads
from deploy.cluster.pools import PoolName, process_name

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Location:
    """A place on a machine that a process has been given."""

    node: str  # the machine's name, for people
    host: str  # by which the others reach it
    interface: str = "lo"  # the network interface with that address; empty: not known
    port: int = 0  # a free one there; only learner rank 0 needs it

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True)
class ProcessSpec:
    """One process of a run."""

    name: str  # of the process and of its log
    pool: PoolName
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)  # on top of the inherited one


def broker_spec(
    config: RunConfig, arguments: Sequence[str], location: Location, port: int = 0
) -> ProcessSpec:
    """The broker's command and environment.

    Args:
        port: to listen on. 0 means the configured one.
    """
    flags: list[str] = []
    configured = config.broker.address.rpartition(":")[2]
    if not location.is_loopback:
        # At one address of its machine alone, which is how the others know it.
        address = join_address(location.host, port or configured)
        flags = ["--broker.address", f"tcp://{address}"]
    elif port:
        flags = ["--broker.address", f"tcp://127.0.0.1:{port}"]
    return ProcessSpec("broker", "broker", _command("broker", config.broker_pool, arguments, flags))


def rollout_spec(
    config: RunConfig, arguments: Sequence[str], rank: int, location: Location, broker_address: str
) -> ProcessSpec:
    flags = ["--broker.address", broker_address]
    on_gpus = config.rollout_pool.gpus > 0
    return ProcessSpec(
        process_name("rollout", rank),
        "rollout",
        _command("rollout", config.rollout_pool, arguments, flags),
        {
            "RANK": str(rank),
            **_interfaces(location),
            # Of engines on CPUs rollout.threads alone decides: small models are slower with more.
            **(_threads(config.rollout.threads, config.rollout_pool) if on_gpus else {}),
        },
    )


def learner_specs(
    config: RunConfig,
    arguments: Sequence[str],
    locations: Sequence[Location],
    broker_address: str,
    servers: int,
) -> list[ProcessSpec]:
    """All ranks of the learner, which meet on the first one's machine.

    Args:
        locations: one a rank.
        servers: rollout servers that the first push waits for.
    """
    first = locations[0]
    flags = ["--broker.address", broker_address, "--rollout.servers", str(servers)]
    if not first.is_loopback:
        flags += ["--weights.host", first.host]
    command = _command("learner", config.learner_pool, arguments, flags)
    return [
        ProcessSpec(
            process_name("learner", rank),
            "learner",
            command,
            {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(locations)),
                # Of the GPUs that the process sees: Ray shows each process its own alone.
                "LOCAL_RANK": "0" if config.learner_pool.gpus else str(_before(locations, rank)),
                **sleeping_threads(),
                "MASTER_ADDR": first.host,
                "MASTER_PORT": str(first.port),
                **_interfaces(location),
                **_threads(config.learner.threads, config.learner_pool),
            },
        )
        for rank, location in enumerate(locations)
    ]


def _before(locations: Sequence[Location], rank: int) -> int:
    """How many ranks before this one are on its machine."""
    return sum(location.node == locations[rank].node for location in locations[:rank])


def _interfaces(location: Location) -> dict[str, str]:
    """gloo and NCCL would look for an interface by themselves, and take one that leads nowhere.

    On one machine NCCL would take an outer one, where its bootstrap listens and asks for no key.
    """
    return dict.fromkeys(INTERFACE_VARIABLES, location.interface) if location.interface else {}


def _threads(threads: int | None, pool: PoolSection) -> dict[str, str]:
    """Threads of CPU work, as many as the pool reserves: Ray gives one, where it reserves none.

    One CPU is the default, which says nothing, and is left as it is.
    """
    if threads is not None or pool.cpus < 2:
        return {}
    return {"OMP_NUM_THREADS": f"{int(pool.cpus)}"}


def _command(
    package: str, pool: PoolSection, arguments: Sequence[str], flags: Sequence[str]
) -> tuple[str, ...]:
    python = str(pool.python or sys.executable)
    return (python, "-m", f"{package}.main", *arguments, *flags)
