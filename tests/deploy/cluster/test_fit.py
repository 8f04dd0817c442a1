"""Holds deploy/cluster/gpu_shares.py, deploy/cluster/misfit.py."""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from deploy.cluster.fit import Assignment, assignments_of, fit, gpus_of_bundle
from deploy.cluster.nodes import Node
from deploy.cluster.pools import Pool

pytestmark = pytest.mark.smoke

ROLLOUT, LEARNER = {"pool": "rollout"}, {"pool": "learner"}
SHARES = (0.0, 0.25, 0.3, 0.4, 0.5, 0.6, 1.0, 2.0)
labels = st.sampled_from(({}, {}, ROLLOUT, LEARNER))


@st.composite
def pools(draw: st.DrawFn, most: int) -> list[Pool]:
    learners = draw(st.integers(1, most))
    nodes = draw(st.sampled_from([n for n in (1, 2, 3) if learners % n == 0]))
    gpus, cpus = st.sampled_from(SHARES), st.sampled_from((0.5, 1.0, 2.0))
    return [
        Pool("learner", learners, draw(cpus), draw(gpus), nodes, draw(labels)),
        Pool(
            "rollout",
            draw(st.integers(1, most)),
            draw(cpus),
            draw(gpus),
            draw(st.sampled_from((None, None, 1, 2))),
            draw(labels),
        ),
        Pool("broker", 1, 1.0, 0.0, None, draw(labels)),
    ]


@st.composite
def machines(draw: st.DrawFn, most: int, most_gpus: int) -> list[Node]:
    cpus = st.sampled_from((1.0, 2.0, 3.0, 6.0))
    return [
        Node(f"n{index}", draw(cpus), draw(st.integers(0, most_gpus)), labels=draw(labels))
        for index in range(draw(st.integers(1, most)))
    ]


@settings(max_examples=300)
@given(pools(12), machines(5, 8))
def test_nothing_is_given_twice_and_labels_are_kept(pools: list[Pool], nodes: list[Node]) -> None:
    assignments = assignments_of(pools, nodes)
    if assignments is None:
        return
    names = [name for pool in pools for name in pool.process_names()]
    assert [assignment.process for assignment in assignments] == names
    by_name = {pool.name: pool for pool in pools}
    cpus: dict[str, float] = defaultdict(float)
    held: dict[tuple[str, int], Fraction] = defaultdict(Fraction)
    for assignment in assignments:
        pool = by_name[assignment.pool]
        assert pool.labels.items() <= assignment.node.labels.items()
        assert len(set(assignment.gpus)) == math.ceil(pool.gpus)
        assert all(0 <= gpu < assignment.node.gpus for gpu in assignment.gpus)
        cpus[assignment.node.name] += pool.cpus
        for gpu in assignment.gpus:
            held[assignment.node.name, gpu] += Fraction(str(assignment.share))
    assert all(cpus[node.name] <= node.cpus for node in nodes)
    assert all(share <= 1 for share in held.values())
    for pool in pools:
        used = [s.node.name for s in assignments if s.pool == pool.name]
        if pool.nodes is not None and pool.processes % pool.nodes == 0:
            each = [used.count(name) for name in sorted(set(used))]
            assert each == [pool.processes // pool.nodes] * pool.nodes
            assert used == [name for name, _ in itertools.groupby(used) for _ in range(each[0])]


def can_fit(pools: Sequence[Pool], nodes: Sequence[Node]) -> bool:
    """The reference: every process on every machine and GPU, each in turn."""
    processes = [(pool, rank) for pool in pools for rank in range(pool.processes)]
    cpus = {node.name: node.cpus for node in nodes}
    free = {node.name: [Fraction(1)] * node.gpus for node in nodes}

    def place(index: int, bundles: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
        if index == len(processes):
            return True
        pool, rank = processes[index]
        machines_of = dict(bundles).get(pool.name, ())
        for node in nodes:
            if not pool.labels.items() <= node.labels.items():
                continue
            if pool.nodes is not None:
                bundle = rank // (pool.processes // pool.nodes)
                is_new = bundle == len(machines_of)
                if is_new == (node.name in machines_of):
                    continue
                if not is_new and machines_of[bundle] != node.name:
                    continue
                there = (*machines_of, node.name) if is_new else machines_of
            else:
                there = machines_of
            if cpus[node.name] < pool.cpus:
                continue
            cpus[node.name] -= pool.cpus
            after = tuple({**dict(bundles), pool.name: there}.items())
            size = Fraction(str(pool.gpus))
            share = min(size, Fraction(1))
            for chosen in itertools.combinations(range(node.gpus), math.ceil(size)):
                if all(free[node.name][gpu] >= share for gpu in chosen):
                    for gpu in chosen:
                        free[node.name][gpu] -= share
                    found = place(index + 1, after)
                    for gpu in chosen:
                        free[node.name][gpu] += share
                    if found:
                        return True
            cpus[node.name] += pool.cpus
        return False

    return place(0, ())


def share_of_bundle_is_divisible(pool: Pool) -> bool:
    """Ray gives the shares of one bundle in whole GPUs and one rest: only then it is as fine as
    shares given one by one. Pools with an odd rest are left to the tests of what is reserved."""
    if pool.nodes is None or not 0 < pool.gpus < 1:
        return True
    return pool.processes // pool.nodes == 1 or pool.gpus == 0.5


@settings(max_examples=400)
@given(pools(3), machines(3, 3))
def test_it_fits_exactly_when_some_way_exists(pools: list[Pool], nodes: list[Node]) -> None:
    pools = [
        pool
        for pool in pools
        if share_of_bundle_is_divisible(pool) and pool.processes % (pool.nodes or 1) == 0
    ]
    assert (assignments_of(pools, nodes) is not None) == can_fit(pools, nodes)


def locations(assignments: list[Assignment]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        assignment.process: (assignment.node.name, assignment.gpus) for assignment in assignments
    }


def test_shares_of_rollout_and_learner_meet_on_one_gpu() -> None:
    pools = [Pool("learner", 1, 1, 0.6, 1), Pool("rollout", 1, 1, 0.4, None)]
    assert set(locations(fit(pools, [Node("a", 8, 1)])).values()) == {("a", (0,))}


def test_what_a_machine_reserves_for_shares_holds_each_of_them_on_one_gpu() -> None:
    """Ray fills whole GPUs first: of 1.2 GPUs no two processes get 0.6 each."""
    for processes, gpus, reserved in ((2, 0.6, 2), (3, 0.4, 1.4), (2, 0.4, 0.8), (4, 0.5, 2)):
        assert gpus_of_bundle(Pool("learner", processes, 1, gpus, 1)) == reserved
    assert gpus_of_bundle(Pool("learner", 8, 1, 2, 2)) == 8
    assert gpus_of_bundle(Pool("rollout", 8, 1, 0.4, None)) == 0.4
    assert gpus_of_bundle(Pool("broker", 1, 1, 0, None)) == 0


def test_the_first_machine_is_not_taken_by_what_fits_anywhere() -> None:
    """A greedy placement would put the learner on the only machine of the rollouts."""
    nodes = [Node("r", 8, 4, labels=ROLLOUT), Node("l", 8, 4)]
    pools = [Pool("learner", 4, 1, 1, 1), Pool("rollout", 4, 1, 1, None, ROLLOUT)]
    assert {s.node.name for s in fit(pools, nodes) if s.pool == "learner"} == {"l"}


def test_a_bundle_is_reserved_in_full_on_every_machine_of_a_pool() -> None:
    """Three servers on two machines: Ray reserves room for two on each."""
    pools = [Pool("rollout", 3, 1, 1, 2)]
    assert assignments_of(pools, [Node("a", 8, 2), Node("b", 8, 1)]) is None
    placed = locations(fit(pools, [Node("a", 8, 2), Node("b", 8, 2)]))
    assert placed == {"rollout-0": ("a", (0,)), "rollout-1": ("a", (1,)), "rollout-2": ("b", (0,))}


def test_shares_of_one_bundle_fill_gpus_one_after_the_other() -> None:
    placed = locations(fit([Pool("learner", 3, 1, 0.4, 1)], [Node("a", 8, 2)]))
    assert [gpus for _, gpus in placed.values()] == [(0,), (0,), (1,)]


def test_many_machines_take_little_time() -> None:
    nodes = [Node(f"n{index}", 208, 8) for index in range(8)]
    pools = [Pool("learner", 48, 8, 1, 6), Pool("rollout", 17, 8, 1, None)]
    with pytest.raises(ConfigError, match=r"rollout\.servers = 16"):
        fit(pools, nodes)


def error(pools: list[Pool], nodes: list[Node]) -> str:
    with pytest.raises(ConfigError) as caught:
        fit(pools, nodes)
    return str(caught.value)


def test_a_misfit_names_pool_need_machines_and_mends() -> None:
    learners, servers = Pool("learner", 6, 8, 1, 1), Pool("rollout", 4, 8, 1, None)
    text = error([learners, servers], [Node("a", 208, 8, "H100")])
    assert text.startswith("rollout_pool finds no place beside 6 learner processes with 1 GPU each")
    assert "it needs 4 x (8 CPUs and 1 GPU). There is: 1 x (208 CPUs, 8 GPUs H100)" in text
    assert "Fix: rollout.servers = 2, or rollout_pool.gpus = 0.5, or learner.ranks = 4, or" in text


def test_a_misfit_by_labels_names_them() -> None:
    text = error([Pool("learner", 1, 1, 0, 1, LEARNER)], [Node("a", 8, labels=ROLLOUT)])
    assert (
        "There is no machine with the labels pool=learner. Fix: other learner_pool.labels" in text
    )


def test_a_learner_on_too_few_machines_is_told_which_size_fits() -> None:
    text = error([Pool("learner", 48, 8, 1, 6)], [Node("a", 208, 8), Node("b", 208, 8)])
    assert "48 x (8 CPUs and 1 GPU), on 6 different machines" in text
    assert "learner.ranks = 16 on learner_pool.nodes = 2" in text


def test_one_gpu_for_two_is_told_to_share_it() -> None:
    text = error([Pool("learner", 1, 1, 1, 1), Pool("rollout", 1, 1, 1, None)], [Node("a", 8, 1)])
    assert "rollout_pool.gpus = 0.4 and learner_pool.gpus = 0.6 with weights.transport" in text


def test_a_mend_leaves_room_for_the_pools_that_come_after() -> None:
    pools = [
        Pool("learner", 1, 1, 0, 1),
        Pool("rollout", 3, 1, 0, None),
        Pool("broker", 1, 1, 0, None),
    ]
    assert "Fix: rollout.servers = 1, or more machines" in error(pools, [Node("a", 3)])


@settings(max_examples=100)
@given(pools(6), machines(3, 4))
def test_each_number_of_servers_that_is_named_fits(pools: list[Pool], nodes: list[Node]) -> None:
    try:
        fit(pools, nodes)
        return
    except ConfigError as caught:
        # by itself: "... and rollout.servers = 1" comes with other shares of the GPUs
        named = re.search(r"rollout_pool finds .*(?<! and )rollout\.servers = (\d+),", str(caught))
    if named is not None:
        fewer = dataclasses.replace(pools[1], processes=int(named[1]))
        assert assignments_of([pools[0], fewer], nodes) is not None


def test_no_machines_at_all_is_an_error_too() -> None:
    assert "There is no machine. Fix: more machines" in error([Pool("broker", 1, 1, 0, None)], [])
