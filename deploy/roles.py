"""Which processes a run is made of: plain `python -m X.main` commands and their environments."""

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
    learner = Role(
        "learner",
        (*_command("learner", run_folder), *address),
        cpus=cluster.learner_cpus,
        gpus=cluster.learner_gpus,
        environment={"RANK": "0", "WORLD_SIZE": "1"},
        ends_run=True,
    )
    return [*rollouts, learner]


def _command(package: str, run_folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", f"{package}.main", "--config", str(run_folder / "config.toml"))
