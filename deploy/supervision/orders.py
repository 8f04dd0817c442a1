"""What each process is told to do, made anew for each life: command, environment, log, files."""

from collections.abc import Sequence
from pathlib import Path

from broker.keys import LEARNER_FILE, MEMBER_FILE, SERVER_FILE
from common.config import RunConfig
from deploy.cluster.environments import set_up_command
from deploy.cluster.roles import Role, Seat, broker_role, learner_roles, rollout_role
from deploy.supervision.process_actor import Order

_KEY_FILES = {"broker": SERVER_FILE, "learner": LEARNER_FILE, "rollout": MEMBER_FILE}


class OrderBook:
    """The orders of one run, whose folder holds config.toml."""

    def __init__(self, config: RunConfig, run_folder: Path) -> None:
        self._config = config
        self._folder = run_folder
        self._arguments = ("--config", str(run_folder / "config.toml"))
        self._is_own_machine = config.cluster.address is None

    def broker(self, seat: Seat) -> Order:
        return self._order(broker_role(self._config, self._arguments, seat))

    def rollout(self, rank: int, seat: Seat, broker_address: str) -> Order:
        return self._order(rollout_role(self._config, self._arguments, rank, seat, broker_address))

    def learners(self, seats: Sequence[Seat], broker_address: str, servers: int) -> list[Order]:
        roles = learner_roles(self._config, self._arguments, seats, broker_address, servers)
        return [self._order(role) for role in roles]

    def _order(self, role: Role) -> Order:
        cluster = self._config.cluster
        return Order(
            role.command,
            role.environment,
            str(self._folder / "logs" / f"{role.name}.log"),
            cluster.log_mib * 2**20,
            cluster.log_files,
            {} if self._is_own_machine else self._files(role),
            None if self._is_own_machine else set_up_command(role.pool, self._config),
        )

    def _files(self, role: Role) -> dict[str, bytes]:
        """For a machine that does not share the run folder: what the process reads there.

        They travel through Ray, keys included: a cluster of several machines is to run with Ray's
        token authentication, or on a network of its own.
        """
        paths = [self._folder / "config.toml"]
        if self._config.broker.keys is not None:
            paths.append(self._config.broker.keys / _KEY_FILES[role.pool])
        return {str(path): path.read_bytes() for path in paths if path.exists()}
