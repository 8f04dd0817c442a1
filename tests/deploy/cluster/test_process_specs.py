"""Commands and environments of a run's processes.

Holds common/cpu_threads.py.
"""

import sys
from typing import Any

import pytest

from common.config import RunConfig
from common.config_cli import build, load
from deploy.cluster.process_specs import (
    Location,
    ProcessSpec,
    broker_spec,
    learner_specs,
    rollout_spec,
)

ARGUMENTS = ("--config", "RUN/config.toml")
HERE = Location("laptop", "127.0.0.1", "lo", 5000)
BROKER = "tcp://10.0.0.1:4000"
# NCCL too: of itself it takes an outer interface, where its bootstrap lets everybody in.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def location(node: str, port: int = 0, interface: str = "eth0") -> Location:
    return Location(node, node, interface, port)


def command(package: str, *flags: str, python: str = sys.executable) -> tuple[str, ...]:
    return (python, "-m", f"{package}.main", *ARGUMENTS, *flags)


def config(**sections: dict[str, Any]) -> RunConfig:
    return build(sections)


def test_the_broker_listens_where_it_is_configured_on_loopback() -> None:
    spec = broker_spec(config(), ARGUMENTS, HERE)
    assert spec == ProcessSpec("broker", "broker", command("broker"), {})
    fixed = broker_spec(config(), ARGUMENTS, HERE, port=77)
    assert fixed.command == command("broker", "--broker.address", "tcp://127.0.0.1:77")


@pytest.mark.parametrize(
    ("configured", "port", "address"),
    [
        ("tcp://127.0.0.1:0", 0, "tcp://10.0.0.7:0"),
        ("tcp://127.0.0.1:9000", 0, "tcp://10.0.0.7:9000"),
        ("tcp://127.0.0.1:9000", 77, "tcp://10.0.0.7:77"),
    ],
)
def test_the_broker_listens_at_its_machines_address_on_a_cluster(
    configured: str, port: int, address: str
) -> None:
    spec = broker_spec(
        config(broker={"address": configured}), ARGUMENTS, location("10.0.0.7"), port=port
    )
    assert spec.command == command("broker", "--broker.address", address)


def test_a_rollout_knows_its_number_and_the_broker() -> None:
    spec = rollout_spec(config(), ARGUMENTS, 3, HERE, BROKER)
    assert (spec.name, spec.pool) == ("rollout-3", "rollout")
    assert spec.command == command("rollout", "--broker.address", BROKER)
    assert spec.environment == {"RANK": "3", **LOOPBACK}


def test_groups_are_told_the_interface_off_loopback_if_it_is_known() -> None:
    spec = rollout_spec(config(), ARGUMENTS, 0, location("10.0.0.2"), BROKER)
    assert spec.environment["GLOO_SOCKET_IFNAME"] == "eth0"
    assert spec.environment["NCCL_SOCKET_IFNAME"] == "eth0"
    unknown = rollout_spec(config(), ARGUMENTS, 0, location("10.0.0.2", interface=""), BROKER)
    assert unknown.environment == {"RANK": "0"}


def test_a_learner_alone_on_a_laptop() -> None:
    (spec,) = learner_specs(config(), ARGUMENTS, [HERE], BROKER, servers=2)
    flags = ("--broker.address", BROKER, "--rollout.servers", "2")
    assert spec.name == "learner-0" and spec.command == command("learner", *flags)
    assert spec.environment == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "5000",
        **LOOPBACK,
    }


def test_ranks_meet_on_the_first_ones_machine() -> None:
    """And count those of their own machine, when they see all of its GPUs."""
    locations = [
        location("10.0.0.3", 7000),
        location("10.0.0.4", 7001),
        location("10.0.0.3"),
        location("10.0.0.4"),
    ]
    specs = learner_specs(config(), ARGUMENTS, locations, BROKER, servers=2)
    assert [spec.name for spec in specs] == [f"learner-{rank}" for rank in range(4)]
    for spec in specs:
        assert spec.command[-2:] == ("--weights.host", "10.0.0.3")
        assert spec.environment["WORLD_SIZE"] == "4"
        assert spec.environment["MASTER_ADDR"] == "10.0.0.3"
        assert spec.environment["MASTER_PORT"] == "7000"
    assert [spec.environment["RANK"] for spec in specs] == ["0", "1", "2", "3"]
    assert [spec.environment["LOCAL_RANK"] for spec in specs] == ["0", "0", "1", "1"]


def test_a_rank_that_ray_shows_its_own_gpu_alone_takes_the_first() -> None:
    locations = [location("10.0.0.3")] * 2
    specs = learner_specs(config(learner_pool={"gpus": 1}), ARGUMENTS, locations, BROKER, 1)
    assert [spec.environment["LOCAL_RANK"] for spec in specs] == ["0", "0"]


@pytest.mark.parametrize(
    ("cpus", "threads", "expected"),
    [(16, None, "16"), (1, None, None), (2.5, None, "2"), (16, 4, None)],
)
def test_a_learner_computes_on_the_cpus_that_its_pool_reserves(
    cpus: float, threads: int | None, expected: str | None
) -> None:
    """Ray, which reserves none on one machine, would leave it a single thread."""
    mine = config(learner_pool={"cpus": cpus}, learner={"threads": threads})
    (spec,) = learner_specs(mine, ARGUMENTS, [HERE], BROKER, 1)
    assert spec.environment.get("OMP_NUM_THREADS") == expected


def test_engines_on_cpus_take_no_more_threads_than_they_are_told() -> None:
    for gpus, expected in ((0, None), (1, "8")):
        pool = {"cpus": 8, "gpus": gpus}
        spec = rollout_spec(config(rollout_pool=pool), ARGUMENTS, 0, HERE, BROKER)
        assert spec.environment.get("OMP_NUM_THREADS") == expected


def test_a_pool_may_have_a_python_of_its_own() -> None:
    mine = config(rollout_pool={"python": "/opt/rollout/bin/python"})
    spec = rollout_spec(mine, ARGUMENTS, 0, HERE, BROKER)
    assert spec.command[0] == "/opt/rollout/bin/python"
    assert broker_spec(mine, ARGUMENTS, HERE).command[0] == sys.executable


def test_what_a_process_is_told_is_what_it_understands(tmp_path: Any) -> None:
    """The command's flags are configuration keys."""
    (tmp_path / "config.toml").write_text("")
    arguments = ("--config", str(tmp_path / "config.toml"))
    (learner,) = learner_specs(config(), arguments, [location("10.0.0.3")], BROKER, servers=7)
    told = load(list(learner.command[3:]))
    assert (told.broker.address, told.rollout.servers) == (BROKER, 7)
    assert told.weights.host == "10.0.0.3"
