"""Sections of the configuration tree that say where processes run and how they are kept alive."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from common.engines import engine_of
from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig

# As Kubernetes has labels, and Ray too: prefix/name and value.
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)


class PoolSection(Section):
    """The machines of one kind of process, and what each process reserves there."""

    cpus: float = Field(1.0, gt=0, description="CPUs reserved per process.")
    gpus: float = Field(
        0.0, ge=0, description="GPUs of a process, whole ones or a share of a single one."
    )
    nodes: int | None = Field(
        None,
        gt=0,
        description="Machines that the pool is spread over evenly; none: one for learners, for "
        "others wherever there is room. Ray looks for lost ones before anything else: leave it out "
        "where rollout machines come and go.",
    )
    labels: tuple[str, ...] = Field(
        (),
        description="Ray node labels that its machines have, KEY=VALUE each "
        "(pool=rollout, ray.io/accelerator-type=H100).",
    )
    python: Path | None = Field(
        None, description="Python of its environment, on its machines; none: the launcher's."
    )
    image: str | None = Field(
        None, min_length=1, description="Container image of its machines (KubeRay)."
    )

    @field_validator("gpus")
    @classmethod
    def _is_whole_or_a_share(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("no whole number, nor a share of one GPU")
        return gpus

    @field_validator("labels")
    @classmethod
    def _are_keys_and_values(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            key, separator, value = label.partition("=")
            if not (key and separator and value):
                raise ValueError(f"{label!r} is not KEY=VALUE")
            prefix, slash, name = key.rpartition("/")
            is_prefix = _PREFIX.fullmatch(prefix) if slash else True
            wanted = value.removeprefix("!")  # any other, as Ray's selectors have it
            if not (is_prefix and _NAME.fullmatch(name) and _NAME.fullmatch(wanted)):
                raise ValueError(
                    f"{label!r} is no label: letters, digits and ._- in name and value, 63 at most"
                )
        return labels


class ClusterSection(Section):
    address: str | None = Field(
        None,
        description="Address of a Ray cluster that runs (HOST:PORT, or auto); none: RAY_ADDRESS, "
        "or a local Ray on loopback.",
    )
    drain_s: float = Field(20.0, gt=0, description="Seconds a stopping process may take.")
    max_restarts: int = Field(
        5,
        ge=0,
        description="Times that a process which failed is started again within restart_window_s; "
        "the learner's ranks count as one.",
    )
    restart_window_s: float = Field(
        3600.0, gt=0, description="Seconds; older restarts are forgiven."
    )
    restart_delay_s: float = Field(
        1.0, gt=0, description="Seconds before the first restart; doubles up to a minute."
    )
    place_timeout_s: float = Field(
        60.0, gt=0, description="Seconds that a process may wait for a machine with room for it."
    )
    log_mib: int = Field(32, gt=0, description="MiB of a log file before the next one is begun.")
    log_files: int = Field(4, gt=0, description="Log files kept per process, the current included.")
    gpus_per_node: int | None = Field(
        None, gt=0, description="GPUs of a machine that is asked for (Slurm); none: as pools need."
    )
    slurm_options: tuple[str, ...] = Field(
        (), description="Further options of sbatch, word by word (--partition=gpu,--time=8:00:00)."
    )


def _broker_has_no_gpu(config: "RunConfig") -> None:
    if config.broker_pool.gpus:
        raise ValueError("broker_pool.gpus: the broker uses none. Fix: leave it at 0")


def _server_has_its_gpus(config: "RunConfig") -> None:
    server_gpus, told = engine_of(config).server_gpus(config)
    if config.rollout_pool.gpus > 1 and config.rollout_pool.gpus != server_gpus:
        raise ValueError(
            f"rollout_pool.gpus = {config.rollout_pool.gpus:g}, but a server is split over "
            f"{told} GPUs. Fix: make them equal"
        )


CHECKS = (_broker_has_no_gpu, _server_has_its_gpus)
