"""Which processes a run is made of: plain `python -m X.main` commands and their environments."""

import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Role:
    """One process of a run."""

    name: str  # of the process and of its log
    command: tuple[str, ...]
    cpus: float  # reserved through Ray
    gpus: float
    environment: dict[str, str] = field(default_factory=dict)  # on top of the inherited one
    ends_run: bool = False  # its good end is the end of the run


def broker_role(run_folder: Path) -> Role:
    return Role("broker", _command("broker", run_folder), cpus=0, gpus=0)


def worker_roles(config: RunConfig, run_folder: Path, broker_address: str) -> list[Role]:
    """Everything that talks to the broker, the learner last."""
    address = ("--broker.address", broker_address)
    cluster = config.cluster
    rollouts = [
        Role(
            f"rollout-{rank}",
            (*_command("rollout", run_folder), *address),
            cpus=cluster.rollout_cpus,
            gpus=cluster.rollout_gpus,
            environment={"RANK": str(rank), "WORLD_SIZE": str(config.rollout.servers)},
        )
        for rank in range(config.rollout.servers)
    ]
    meeting_point = _meeting_point(cluster.learner_ranks)
    learners = [
        Role(
            "learner" if rank == 0 else f"learner-{rank}",
            (*_command("learner", run_folder), *address),
            cpus=cluster.learner_cpus,
            gpus=cluster.learner_gpus,
            environment={
                "RANK": str(rank),
                # Of the GPUs that the process sees: Ray shows each process its own alone.
                "LOCAL_RANK": "0" if cluster.learner_gpus else str(rank),
                **meeting_point,
            },
            ends_run=True,
        )
        for rank in range(cluster.learner_ranks)
    ]
    return [*rollouts, *learners]


def _meeting_point(ranks: int) -> dict[str, str]:
    """torchrun's variables; a free port for the ranks to meet at."""
    alone = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if ranks == 1:
        return alone
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {**alone, "MASTER_PORT": str(probe.getsockname()[1])}


def _command(package: str, run_folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", f"{package}.main", "--config", str(run_folder / "config.toml"))
