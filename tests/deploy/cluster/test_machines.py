"""deploy/cluster/machines.py: how many machines a run asks for, and what is planned on each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config_cli import build
from common.errors import ConfigError
from deploy.cluster.machines import gpus_per_node, machines_for
from deploy.cluster.pools import pools_of


def planned(**sections: dict) -> list[list[str]]:
    return [machine.pools for machine in machines_for(build(sections))]


def test_a_run_without_gpus_needs_one_machine() -> None:
    assert planned() == [["learner", "rollout", "broker"]]


def test_pools_share_a_machine_that_has_room_for_both() -> None:
    sections = {
        "learner": {"ranks": 4},
        "learner_pool": {"gpus": 1},
        "rollout": {"servers": 4},
        "rollout_pool": {"gpus": 1},
        "cluster": {"gpus_per_node": 8},
    }
    assert planned(**sections) == [["learner", "rollout", "broker"]]
    sections["rollout"] = {"servers": 5}
    assert planned(**sections) == [["learner", "rollout", "broker"], ["rollout"]]


def test_labels_keep_pools_apart() -> None:
    pools = {
        "learner_pool": {"labels": ["pool=learner"]},
        "rollout_pool": {"labels": ["pool=rollout"]},
    }
    machines = machines_for(build(pools))
    assert [machine.pools for machine in machines] == [["learner", "broker"], ["rollout"]]
    assert [machine.labels for machine in machines] == [{"pool": "learner"}, {"pool": "rollout"}]


def test_a_spread_pool_has_each_machine_once() -> None:
    sections = {"rollout": {"servers": 5}, "rollout_pool": {"nodes": 3, "cpus": 2}}
    machines = machines_for(build(sections))
    assert [machine.pools.count("rollout") for machine in machines] == [1, 1, 1]
    assert [machine.cpus for machine in machines] == [1 + 4 + 1, 4, 2]


def test_servers_of_several_gpus_are_not_cut() -> None:
    sections = {
        "rollout": {"servers": 3},
        "rollout_pool": {"gpus": 3},
        "sglang": {"tensor_parallel": 3},
        "cluster": {"gpus_per_node": 4},
    }
    assert planned(**sections) == [["learner", "rollout", "broker"], ["rollout"], ["rollout"]]


def test_shares_of_one_gpu() -> None:
    pools = {"rollout": {"servers": 5}, "rollout_pool": {"gpus": 0.4, "nodes": 1}}
    assert gpus_per_node(build(pools)) == 3  # two on each: 0.2 of it is left to nobody


def test_what_does_not_fit_names_the_key() -> None:
    sections = {"learner": {"ranks": 16}, "learner_pool": {"gpus": 1}}
    with pytest.raises(ConfigError, match=r"^cluster\.gpus_per_node = 8, .*learner_pool\.nodes"):
        planned(**sections, cluster={"gpus_per_node": 8})


@given(
    ranks=st.integers(1, 8),
    servers=st.integers(1, 20),
    learner_gpus=st.sampled_from([0, 0.5, 1]),
    server_gpus=st.sampled_from([0, 0.25, 0.5, 1, 2, 4]),
    nodes=st.none() | st.integers(1, 4),
    labels=st.booleans(),
)
def test_every_process_has_its_gpus_and_nothing_is_overbooked(
    ranks: int,
    servers: int,
    learner_gpus: float,
    server_gpus: float,
    nodes: int | None,
    labels: bool,
) -> None:
    config = build(
        {
            "learner": {"ranks": ranks},
            "learner_pool": {"gpus": learner_gpus, "labels": ["pool=a"] if labels else []},
            "rollout": {"servers": servers},
            "rollout_pool": {
                "gpus": server_gpus,
                "nodes": nodes,
                "labels": ["pool=b"] if labels else [],
            },
            "sglang": {"tensor_parallel": max(1, int(server_gpus))},
            "cluster": {"gpus_per_node": 20 * 4},
        }
    )
    machines = machines_for(config)
    assert all(0 <= left <= 1 for machine in machines for left in machine.free_gpus)
    used = sum(1 - left for machine in machines for left in machine.free_gpus)
    wanted = sum(pool.processes * pool.gpus for pool in pools_of(config))
    assert used == pytest.approx(wanted)
    reserved = sum(pool.processes * pool.cpus for pool in pools_of(config))
    assert sum(machine.cpus for machine in machines) == pytest.approx(reserved)
    if nodes is not None:
        assert sum("rollout" in m.pools for m in machines) == min(nodes, servers)
