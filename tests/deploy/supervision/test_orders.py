"""What is ordered of a process's machine: on one's own, and on a cluster."""

import sys
from pathlib import Path
from typing import Any

import pytest

import deploy.supervision.orders
from common.config import RunConfig
from common.config_cli import build
from deploy.cluster.roles import Seat
from deploy.supervision.orders import OrderBook

HERE = Seat("laptop", "127.0.0.1", "lo", 5000)
THERE = Seat("10.0.0.3", "10.0.0.3", "eth0", 5000)
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


def test_on_ones_own_machine_nothing_is_sent_and_nothing_is_set_up(folder: Path) -> None:
    limits = {"log_mib": 2, "log_files": 3}
    order = OrderBook(config(folder, cluster=limits), folder).broker(HERE)
    assert order.command[:3] == (sys.executable, "-m", "broker.main")
    assert order.command[3:5] == ("--config", str(folder / "config.toml"))
    assert order.log == str(folder / "logs" / "broker.log")
    assert (order.log_bytes, order.log_files) == (2 * 2**20, 3)
    assert order.files == {} and order.set_up is None


def test_on_a_cluster_each_gets_the_configuration_and_its_own_side_of_the_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member must be able to play neither the broker nor the learner."""
    monkeypatch.setattr(
        deploy.supervision.orders, "set_up_command", lambda pool, config: ("set-up", pool)
    )
    book = OrderBook(config(folder, cluster={"address": "auto"}), folder)
    broker = book.broker(THERE)
    others = [book.rollout(2, THERE, BROKER), *book.learners([THERE, THERE], BROKER, 5)]
    toml = {str(folder / "config.toml"): b"# configured\n"}
    assert broker.files == {**toml, str(folder / "keys" / "server.json"): b"server"}
    for name, order in zip(("member", "learner", "learner"), others, strict=True):
        assert order.files == {**toml, str(folder / "keys" / f"{name}.json"): name.encode()}
    pools = [order.set_up for order in (broker, *others)]
    assert pools == [("set-up", pool) for pool in ("broker", "rollout", "learner", "learner")]
    names = [Path(order.log).name for order in (broker, *others)]
    assert names == ["broker.log", "rollout-2.log", "learner-0.log", "learner-1.log"]


def test_the_learner_waits_for_as_many_servers_as_there_are_now(folder: Path) -> None:
    book = OrderBook(config(folder, rollout={"servers": 2}), folder)
    (order,) = book.learners([HERE], BROKER, servers=6)
    assert order.command[-2:] == ("--rollout.servers", "6")


def test_a_life_after_a_change_gets_the_configuration_of_then(folder: Path) -> None:
    book = OrderBook(config(folder, cluster={"address": "auto"}), folder)
    (folder / "config.toml").write_text("# changed\n")
    assert book.broker(THERE).files[str(folder / "config.toml")] == b"# changed\n"
