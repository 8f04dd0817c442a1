"""What a process's machine is asked to start: command, environment, log, files."""

from collections.abc import Sequence
from pathlib import Path

from broker.keys import LEARNER_FILE, MEMBER_FILE, SERVER_FILE
from common.config import RunConfig
from deploy.cluster.environments import set_up_command
from deploy.cluster.pools import PoolName
from deploy.cluster.process_specs import (
    Location,
    ProcessSpec,
    broker_spec,
    learner_specs,
    rollout_spec,
)
from deploy.supervision.process_actor import StartRequest

_KEY_FILES = {"broker": SERVER_FILE, "learner": LEARNER_FILE, "rollout": MEMBER_FILE}


def config_arguments(run_folder: Path) -> tuple[str, ...]:
    """The arguments by which a process of a run finds its configuration."""
    return ("--config", str(run_folder / "config.toml"))


def start_requests(
    pool: PoolName,
    first_rank: int,
    locations: Sequence[Location],
    broker_address: str,
    servers: int,
    config: RunConfig,
    run_folder: Path,
) -> list[StartRequest]:
    """Requests for a new life of a broker, a rollout server, or all ranks of the learner.

    Args:
        first_rank: the rank of a rollout server; the learner's ranks begin with 0.
        servers: rollout servers that the learner's first push waits for.
    """
    arguments = config_arguments(run_folder)
    if pool == "broker":
        specs = [broker_spec(config, arguments, locations[0])]
    elif pool == "rollout":
        specs = [rollout_spec(config, arguments, first_rank, locations[0], broker_address)]
    else:
        specs = learner_specs(config, arguments, locations, broker_address, servers)
    return [start_request(spec, config, run_folder) for spec in specs]


def start_request(spec: ProcessSpec, config: RunConfig, run_folder: Path) -> StartRequest:
    """What is sent to the machine of a process, made anew for each of its lives.

    Args:
        run_folder: holds config.toml.
    """
    is_own_machine = config.cluster.address is None
    return StartRequest(
        spec.command,
        spec.environment,
        str(run_folder / "logs" / f"{spec.name}.log"),
        config.cluster.log_mib * 2**20,
        config.cluster.log_files,
        {} if is_own_machine else _files(spec, config, run_folder),
        None if is_own_machine else set_up_command(spec.pool, config),
    )


def _files(spec: ProcessSpec, config: RunConfig, run_folder: Path) -> dict[str, bytes]:
    """What the process reads on a machine that does not share the run folder.

    They travel through Ray, keys included: a cluster of several machines is to run with Ray's
    token authentication, or on a separate network.
    """
    paths = [run_folder / "config.toml"]
    if config.broker.keys is not None:
        paths.append(config.broker.keys / _KEY_FILES[spec.pool])
    return {str(path): path.read_bytes() for path in paths if path.exists()}
