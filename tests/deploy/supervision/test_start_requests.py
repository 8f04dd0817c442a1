"""What is broker_request of a process's machine: on one's own, and on a cluster."""

import sys
from pathlib import Path
from typing import Any

import pytest

import deploy.supervision.start_requests
from common.config import RunConfig
from common.config_cli import build
from deploy.cluster.process_specs import Location, broker_spec, learner_specs, rollout_spec
from deploy.supervision.process_actor import StartRequest
from deploy.supervision.start_requests import config_arguments, start_request

HERE = Location("laptop", "127.0.0.1", "lo", 5000)
THERE = Location("10.0.0.3", "10.0.0.3", "eth0", 5000)
BROKER = "tcp://10.0.0.1:4000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a configuration and keys."""
    (tmp_path / "config.toml").write_text("# configured\n")
    (tmp_path / "keys").mkdir()
    for name in ("server", "member", "learner"):
        (tmp_path / "keys" / f"{name}.json").write_text(name)
    return tmp_path


def config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    tree: dict[str, Any] = {"broker": {"keys": folder / "keys"}, **sections}
    return build(tree)


def broker_request(config: RunConfig, folder: Path, location: Location) -> StartRequest:
    return start_request(broker_spec(config, config_arguments(folder), location), config, folder)


def test_on_ones_own_machine_nothing_is_sent_and_nothing_is_set_up(folder: Path) -> None:
    limits = {"log_mib": 2, "log_files": 3}
    request = broker_request(config(folder, cluster=limits), folder, HERE)
    assert request.command[:3] == (sys.executable, "-m", "broker.main")
    assert request.command[3:5] == ("--config", str(folder / "config.toml"))
    assert request.log == str(folder / "logs" / "broker.log")
    assert (request.log_bytes, request.log_files) == (2 * 2**20, 3)
    assert request.files == {} and request.set_up is None


def test_on_a_cluster_each_gets_the_configuration_and_its_own_side_of_the_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member must be able to play neither the broker nor the learner."""
    monkeypatch.setattr(
        deploy.supervision.start_requests, "set_up_command", lambda pool, config: ("set-up", pool)
    )
    shared = config(folder, cluster={"address": "auto"})
    arguments = config_arguments(folder)
    broker = broker_request(shared, folder, THERE)
    specs = [
        rollout_spec(shared, arguments, 2, THERE, BROKER),
        *learner_specs(shared, arguments, [THERE, THERE], BROKER, 5),
    ]
    others = [start_request(spec, shared, folder) for spec in specs]
    toml = {str(folder / "config.toml"): b"# configured\n"}
    assert broker.files == {**toml, str(folder / "keys" / "server.json"): b"server"}
    for name, request in zip(("member", "learner", "learner"), others, strict=True):
        assert request.files == {**toml, str(folder / "keys" / f"{name}.json"): name.encode()}
    pools = [request.set_up for request in (broker, *others)]
    assert pools == [("set-up", pool) for pool in ("broker", "rollout", "learner", "learner")]
    names = [Path(request.log).name for request in (broker, *others)]
    assert names == ["broker.log", "rollout-2.log", "learner-0.log", "learner-1.log"]


def test_the_learner_waits_for_as_many_servers_as_there_are_now(folder: Path) -> None:
    configured = config(folder, rollout={"servers": 2})
    (spec,) = learner_specs(configured, config_arguments(folder), [HERE], BROKER, servers=6)
    assert start_request(spec, configured, folder).command[-2:] == ("--rollout.servers", "6")


def test_a_life_after_a_change_gets_the_configuration_of_then(folder: Path) -> None:
    shared = config(folder, cluster={"address": "auto"})
    (folder / "config.toml").write_text("# changed\n")
    assert (
        broker_request(shared, folder, THERE).files[str(folder / "config.toml")] == b"# changed\n"
    )
