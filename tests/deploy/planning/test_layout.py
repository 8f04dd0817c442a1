from dataclasses import replace

import pytest

from common.errors import ConfigError
from deploy.cluster.nodes import Node
from deploy.planning.devices import GIB, GPUS, gpu
from deploy.planning.layout import (
    Layout,
    configured_layout,
    configured_machines,
    described_machines,
    layouts,
)
from tests.deploy.planning.shapes import MACHINES, config

NODES = [Node(f"gpu-{k}", 64, gpus=4, gpu="NVIDIA-A100-SXM4-80GB") for k in range(2)]


def splits(gpus: int, **sections: dict[str, object]) -> list[Layout]:
    run = config(**{"learner": {"groups_per_step": 96}, **sections})
    return layouts(run, configured_machines(run, gpus, "H100"))


def test_every_split_of_a_machine_and_both_sides_on_all_of_it():
    assert splits(4) == [
        Layout(1, 3, 1),
        Layout(2, 2, 1),
        Layout(3, 1, 1),
        Layout(4, 4, 1, is_shared=True),
    ]


def test_servers_of_several_gpus():
    found = splits(8, sglang={"tensor_parallel": 2})
    assert [(s.servers, s.rollout_gpus, s.ranks) for s in found[:-1]] == [
        (1, 2, 6),
        (2, 4, 4),
        (3, 6, 2),
    ]
    assert found[-1] == Layout(4, 8, 2, is_shared=True)


def test_one_gpu_can_only_be_shared():
    assert splits(1) == [Layout(1, 1, 1, is_shared=True)]


def test_ranks_are_spread_evenly_and_have_groups_to_train():
    found = splits(16)
    assert all(split.ranks % split.learner_nodes == 0 for split in found)
    assert [s.ranks for s in found if s.learner_nodes == 2] == [14, 12, 10, 16]
    few = splits(16, learner={"groups_per_step": 4})
    assert max(split.ranks for split in few) == 4


@pytest.mark.parametrize(
    ("ranks", "nodes", "shard_ranks", "expected"),
    [
        (8, 1, None, 8),
        (32, 4, None, 8),  # within each machine
        (4, 4, None, 4),  # no rank could hold the model alone
        (8, 1, 2, 2),
        (32, 4, 32, 32),
    ],
)
def test_a_model_is_sharded_within_machines(ranks, nodes, shard_ranks, expected):
    run = config(learner={"ranks": ranks, "groups_per_step": 96, "shard_ranks": shard_ranks})
    assert Layout(1, ranks, 1, nodes).shards(run) == expected


def test_the_configured_split_knows_over_how_many_machines_its_ranks_are():
    run = config(learner={"ranks": 12, "groups_per_step": 96}, rollout={"servers": 3})
    split = configured_layout(run, replace(MACHINES, gpus=16, gpus_a_node=8))
    assert split == Layout(3, 12, 1, learner_nodes=2) and split.shards(run) == 6
    assert configured_layout(run, replace(MACHINES, gpus=0)) == Layout(3, 12, 0)


def test_ranks_are_whole_replicas():
    found = splits(8, learner={"groups_per_step": 96, "ranks": 4, "shard_ranks": 4})
    assert [split.ranks for split in found] == [4, 8]


def test_without_a_gpu_the_processes_stay_as_configured():
    run = config(rollout={"servers": 2, "threads": 3}, learner={"ranks": 4})
    machines = configured_machines(run, None, None)
    assert not machines.has_gpus and machines.kind == "3 CPU threads a server, " + (
        "1 CPU thread a learner rank"
    )
    assert layouts(run, machines) == [Layout(2, 4, 0)]


def test_the_pools_say_how_many_gpus_there_are():
    run = config(
        learner={"ranks": 6}, learner_pool={"gpus": 1}, rollout={"servers": 2},
        rollout_pool={"gpus": 1},
    )  # fmt: skip
    assert configured_machines(run, None, None).gpus == 8


def test_a_described_cluster():
    machines = described_machines([*NODES, Node("broker", 8)])
    assert (machines.gpus, machines.gpus_a_node) == (8, 4)
    assert machines.learner_device.name == "A100"
    small = Node("small", 8, gpus=8, gpu="L40S", gpu_gib=40)
    slowest = described_machines([*NODES, small]).learner_device
    assert slowest.name == "A100"  # 312 against 362 Tflop/s
    assert not described_machines([Node("broker", 8)]).has_gpus


@pytest.mark.parametrize("device", GPUS, ids=lambda device: device.name)
def test_a_row_of_the_table_is_found_and_whole(device):
    assert gpu(device.name) is device is gpu(f"NVIDIA {device.name}-SXM 80GB")
    assert min(device.operations, device.bandwidth, device.memory, device.link) > 1e9
    assert device.is_gpu and device.link < device.bandwidth < device.operations


def test_known_and_unknown_gpus():
    assert gpu("NVIDIA H100 80GB HBM3").name == "H100"
    assert gpu("h200").name == "H200"
    for name in ("NVIDIA GH200 480GB", "L40", "XA100", "H100S", ""):
        with pytest.raises(ConfigError, match="is not known"):
            gpu(name)  # a part of a word is another GPU
    assert gpu("H100", gib=60).memory == 60 * GIB
    with pytest.raises(ConfigError, match=r"GPU 'TPU' is not known .*Fix: --gpu"):
        gpu("TPU")
