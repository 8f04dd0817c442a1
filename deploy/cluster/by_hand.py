"""A run's processes as commands for terminals: what the launcher does through Ray, by hand."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.addresses import join_address
from common.config import RunConfig
from common.network import free_port
from deploy.cluster.environments import environment_to_make, set_up_command
from deploy.cluster.fit import Assignment
from deploy.cluster.pools import PoolName
from deploy.cluster.process_specs import (
    ROOT,
    Location,
    ProcessSpec,
    broker_spec,
    learner_specs,
    rollout_spec,
)
from deploy.quickstart import own

_BROKER_PORT = "5570"  # on another machine, whose free ports we do not know
_RANKS_PORT = 29500  # likewise; torchrun's
_POOLS: tuple[PoolName, ...] = ("broker", "rollout", "learner")


@dataclass(frozen=True)
class Step:
    """Something to type: a remark of what and where it is, and lines for a shell."""

    remark: str
    lines: tuple[str, ...]


def process_steps(
    config: RunConfig,
    arguments: Sequence[str],
    assignments: Sequence[Assignment],
    visible: Sequence[str] | None = None,
) -> list[Step]:
    """One step a process, in the order in which they are started.

    Args:
        arguments: of the configuration, as every process gets them.
        visible: how CUDA_VISIBLE_DEVICES names the GPUs here. None means by their indices.
    """
    of_pool = {pool: [s for s in assignments if s.pool == pool] for pool in _POOLS}
    locations = [_location(assignment) for assignment in of_pool["learner"]]
    (broker,) = of_pool["broker"]
    host, port = broker.node.host, _broker_port(config, broker)
    address = f"tcp://{join_address(host, port)}"
    is_chosen = not config.broker.address.endswith(f":{port}")
    specs = [broker_spec(config, arguments, _location(broker), port=int(port) if is_chosen else 0)]
    specs += [
        rollout_spec(config, arguments, rank, _location(assignment), address)
        for rank, assignment in enumerate(of_pool["rollout"])
    ]
    specs += learner_specs(config, arguments, locations, address, config.rollout.servers)
    ordered = [broker, *of_pool["rollout"], *of_pool["learner"]]
    return [
        Step(f"{spec.name}, on {_place(assignment)}", _lines(spec, assignment, visible))
        for spec, assignment in zip(specs, ordered, strict=True)
    ]


def preparations(
    config: RunConfig, assignments: Sequence[Assignment], new_keys: Path | None
) -> list[Step]:
    """What has to be there before the processes start, and would be made by the launcher.

    Args:
        new_keys: folder of keys that do not exist yet. None means that they are there.
    """
    steps = []
    for pool in _POOLS:
        is_elsewhere = any(not _location(s).is_loopback for s in assignments if s.pool == pool)
        command = set_up_command(pool, config)
        if command and (is_elsewhere or (pool == "rollout" and environment_to_make(config))):
            place = f"on every machine of the {pool} pool" if is_elsewhere else "once"
            steps.append(Step(f"first, {place}: the environment", _in_root(shlex.join(command))))
    train = config.data.train
    if train is not None and own.is_own(train):
        sizes = f"--train {own.NUM_TRAIN} --heldout {own.NUM_HELDOUT} --seed {own.SEED}"
        steps.append(
            Step(
                "first, once: the quickstart's world",
                _in_root(
                    f"{_python(config)} -m deploy.quickstart.dataset {_quoted(own.CACHE)} {sizes}"
                ),
            )
        )
    if new_keys is not None:
        is_elsewhere = any(not _location(assignment).is_loopback for assignment in assignments)
        remark = "first, once: keys, without which every user of this machine may end the run"
        if is_elsewhere:
            remark = (
                "first, once: keys, without which nothing listens off loopback; copy learner.json "
                "to the same place on the learner's machines, member.json on those of the rollout "
                "pool (scp -p)"
            )
        command_line = f"{_python(config)} -m broker.keys {_quoted(new_keys)}"
        steps.append(Step(remark, _in_root(command_line)))
    return steps


def _location(assignment: Assignment) -> Location:
    node = assignment.node
    location = Location(node.name, node.host)
    if location.is_loopback:
        return Location(node.name, node.host, port=free_port("127.0.0.1"))
    return Location(node.name, node.host, interface="", port=_RANKS_PORT)


def _broker_port(config: RunConfig, broker: Assignment) -> str:
    configured = config.broker.address.rpartition(":")[2]
    if configured != "0":
        return configured
    return str(free_port("127.0.0.1")) if _location(broker).is_loopback else _BROKER_PORT


def _place(assignment: Assignment) -> str:
    node = assignment.node
    return node.name if node.host == "127.0.0.1" else f"{node.name} ({node.host})"


def _lines(
    spec: ProcessSpec, assignment: Assignment, visible: Sequence[str] | None
) -> tuple[str, ...]:
    """The command with its environment before it, an option a line."""
    environment = dict(spec.environment)
    if assignment.gpus:
        names = [str(gpu) if visible is None else visible[gpu] for gpu in assignment.gpus]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    parts = [" ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())]
    parts.append(shlex.join(spec.command[:3]))  # python -m package.main
    options = list(spec.command[3:])
    while options:
        flag = options.pop(0)
        has_value = "=" not in flag and bool(options)
        parts.append(shlex.join([flag, options.pop(0)]) if has_value else shlex.quote(flag))
    first, *rest = filter(None, parts)
    return _in_root(" \\\n  ".join([first, *rest]))


def _in_root(command: str) -> tuple[str, ...]:
    return (f"cd {shlex.quote(str(ROOT))}", *command.split("\n"))


def _python(config: RunConfig) -> str:
    """The broker's Python: keys are made with it, and making the world needs no more."""
    return _quoted(broker_spec(config, (), Location("", "127.0.0.1")).command[0])


def _quoted(word: Path | str) -> str:
    return shlex.quote(str(word))
