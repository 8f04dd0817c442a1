"""Where the machines come from: a file that describes them, this machine, or a Ray that runs.

A described cluster is a TOML file. `count` machines alike are name-0, name-1, ... and have the
addresses from `host` on:

    [[node]]
    name = "gpu"
    count = 2
    cpus = 208
    gpus = 8
    gpu = "H100"
    gpu_gib = 80
    host = "10.0.0.1"
    labels = { pool = "rollout" }
"""

import ipaddress
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, IPvAnyAddress, ValidationError

from common.config_cli import toml_of
from common.errors import ConfigError, VisionOpdError
from common.gpus import Gpu, usable_gpus
from common.section import Section
from deploy.cluster.nodes import Node

ACCELERATOR = "ray.io/accelerator-type"  # a label that Ray gives by itself
logger = logging.getLogger(__name__)
_RAY_TIMEOUT_S = 60.0


class NodeTable(Section):
    """A `[[node]]` of a described cluster."""

    name: str = Field(min_length=1, description="Name of the machine.")
    count: int = Field(1, gt=0, le=4096, description="Machines alike.")
    cpus: float = Field(gt=0, description="CPUs of one machine.")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of one machine.")
    gpu: str = Field("", description="Their model, such as H100.")
    gpu_gib: float = Field(0.0, ge=0, description="GiB of memory of one GPU.")
    host: IPvAnyAddress = Field(
        ipaddress.ip_address("127.0.0.1"),
        description="IP address by which the others reach it; that of the first of several.",
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Ray labels of it.")

    def nodes(self) -> list[Node]:
        labels = {ACCELERATOR: self.gpu, **self.labels} if self.gpu else self.labels
        names = [f"{self.name}-{index}" for index in range(self.count)]
        return [
            Node(name, self.cpus, self.gpus, self.gpu, self.gpu_gib, str(self.host + index), labels)
            for index, name in enumerate(names if self.count > 1 else [self.name])
        ]


class ClusterFile(Section):
    node: tuple[NodeTable, ...] = Field(min_length=1)


def read_cluster(path: Path) -> list[Node]:
    """The machines that a file describes.

    Raises:
        ConfigError: names the file, the key, the value and the fix.
    """
    tree = toml_of(path, f"--cluster {path}", "deploy/configs/clusters/")
    try:
        tables = ClusterFile.model_validate(tree).node
    except ValidationError as error:
        raise ConfigError(f"--cluster {path}: {_first_problem(error)}") from None
    nodes = [node for table in tables for node in table.nodes()]
    for key, values in (("name", [n.name for n in nodes]), ("host", [n.host for n in nodes])):
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            raise ConfigError(
                f"--cluster {path}: {times} machines have {key} = {value!r}. "
                f"Fix: give each [[node]] another {key}"
            )
    return nodes


def _first_problem(error: ValidationError) -> str:
    """The first problem of a file: the key, its value, and the fix."""
    problem = error.errors(include_url=False)[0]
    where = problem["loc"]
    if len(where) < 3:
        keys = ", ".join(NodeTable.model_fields)
        return f"{problem['msg']}. Fix: give one [[node]] or more, with {keys}"
    key = str(where[2])
    place = f"node {int(where[1]) + 1}: {'.'.join(map(str, where[2:]))}"
    field = NodeTable.model_fields.get(key)
    if field is None:
        return f"{place}: unknown key. Fix: use one of {', '.join(NodeTable.model_fields)}"
    if problem["type"] == "missing":
        return f"{place} is not set. Fix: give it. {field.description}"
    return f"{place} = {problem['input']!r}: {problem['msg']}. Fix: change it. {field.description}"


def this_machine() -> Node:
    """The machine that we are on, as a local Ray will see it."""
    gpus = _gpus_here()
    first = gpus[0] if gpus else Gpu("")
    return Node(
        socket.gethostname(),
        os.cpu_count() or 1,
        len(gpus),
        first.model,
        first.gib,
        labels={ACCELERATOR: first.model} if gpus else {},
    )


def _gpus_here() -> tuple[Gpu, ...]:
    try:
        return usable_gpus()
    except ConfigError as error:
        logger.warning("%s: no GPUs here", str(error).partition(". Fix: ")[0])
        return ()


def ray_nodes(address: str) -> list[Node]:
    """The machines of a Ray that runs; connects to it for a moment.

    Raises:
        VisionOpdError: there is none at that address, or it does not answer in time.
    """
    answers: list[Sequence[Mapping[str, Any]]] = []
    errors: list[Exception] = []

    def ask() -> None:
        import ray

        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            answers.append(ray.nodes())
        except Exception as error:  # handed over to the caller, who raises
            errors.append(error)
        finally:
            ray.shutdown()

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    thread = threading.Thread(target=ask, name="ray", daemon=True)  # ray.init has no timeout
    thread.start()
    thread.join(_RAY_TIMEOUT_S)
    if not answers:
        reason = errors[0] if errors else f"no answer within {_RAY_TIMEOUT_S:g} s"
        raise VisionOpdError(f"no Ray at {address!r}: {reason}. Fix: check cluster.address")
    return nodes_from_ray(answers[0])


def nodes_from_ray(infos: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The machines that are alive, from what `ray.nodes()` gives. All that they have: what other
    jobs hold of it is not known."""
    alive = [info for info in infos if info["Alive"]]
    times = Counter(_host_name(info) for info in alive)
    nodes = []
    for info in alive:
        resources, labels = info["Resources"], dict(info.get("Labels") or {})
        address = str(info["NodeManagerAddress"])
        name = _host_name(info)
        nodes.append(
            Node(
                name if times[name] == 1 else address,
                float(resources.get("CPU", 0)),
                int(resources.get("GPU", 0)),
                labels.get(ACCELERATOR, ""),
                host=address,
                labels=labels,
            )
        )
    return nodes


def _host_name(info: Mapping[str, Any]) -> str:
    return str(info.get("NodeManagerHostname") or info["NodeManagerAddress"])
