"""Against closed forms. P groups a step, S the staleness allowed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.planning.rates import GROUP_PARTS
from deploy.planning.server_model import ServerModel
from deploy.planning.simulation import Setup, simulate
from tests.deploy.planning.shapes import some_rates

BASE = Setup(
    servers=2,
    capacity=4,
    groups_per_step=8,
    max_staleness=1,
    alone_s=1.0,
    shared_s=0.5,
    learner_s=20.0,
    steps=20,
)


def test_learner_bound():
    """Samples are always there: a step takes what the learner takes, preparing included."""
    found = simulate(replace(BASE, prepare_s=0.5, push_s=0.2, pause_s=0.2))
    assert found.step_s == pytest.approx(20.5)
    assert found.learner_idle_share == pytest.approx(0.5 / 20.5)
    # eight groups on two servers, four at once: 1 + 4 * 0.5 s a step, and the push before that
    assert found.rollout_idle_share == pytest.approx(1 - 3.0 / 20.5)


def test_rollout_bound():
    """One at a time, no push: a server makes a group a second for ever."""
    setup = replace(BASE, servers=1, capacity=1, alone_s=1.0, shared_s=0.0, learner_s=2.0)
    found = simulate(setup)
    assert found.step_s == pytest.approx(8.0)
    assert found.rollout_idle_share == pytest.approx(0.0, abs=1e-6)
    assert found.learner_idle_share == pytest.approx(6.0 / 8.0)


def test_balanced():
    """Both take three seconds a step and overlap."""
    found = simulate(replace(BASE, learner_s=3.0))
    assert found.step_s == pytest.approx(3.0)
    assert found.learner_idle_share == pytest.approx(0.0, abs=1e-6)
    assert found.rollout_idle_share == pytest.approx(0.0, abs=1e-6)


def test_synchronous_is_the_sum():
    setup = replace(BASE, max_staleness=0, learner_s=5.0, prepare_s=0.5, push_s=0.25, pause_s=0.1)
    found = simulate(setup)
    assert found.step_s == pytest.approx(3.0 + 0.5 + 5.0 + 0.25)
    assert found.staleness_max == 0
    assert found.rollout_idle_share == pytest.approx(1 - 3.0 / 8.75)
    assert found.first_step_s == pytest.approx(0.25 + 3.0 + 0.5 + 5.0)
    assert found.last_step_s == pytest.approx(20 * 8.75)


def test_with_one_step_of_slack_latency_bounds_a_step():
    """Generation, its learner's step and the push must fit into two periods (S = 1)."""
    setup = replace(
        BASE, servers=32, capacity=1, alone_s=10.0, shared_s=0.0, learner_s=2.0, push_s=1.0
    )
    assert simulate(setup).step_s == pytest.approx((10.0 + 2.0 + 1.0) / 2, rel=0.05)
    found = simulate(replace(setup, max_staleness=2))
    assert found.step_s == pytest.approx((10.0 + 2.0 + 1.0) / 3, rel=0.05)


def test_a_pause_costs_generation_time():
    setup = replace(BASE, servers=1, capacity=1, shared_s=0.0, learner_s=0.1, push_s=2.0)
    paused = simulate(replace(setup, pause_s=2.0))
    assert paused.step_s == pytest.approx(8.0 + 2.0)
    assert simulate(setup).step_s == pytest.approx(8.0)


def test_a_learner_ahead_of_its_pushes_waits_for_them():
    setup = replace(BASE, max_staleness=8, alone_s=0.01, shared_s=0.0, learner_s=1.0, push_s=3.0)
    assert simulate(setup).step_s == pytest.approx(3.0, rel=0.01)


def test_long_groups_hold_up_a_step():
    even = simulate(replace(BASE, max_staleness=0, spread=(1.0,)))
    uneven = simulate(replace(BASE, max_staleness=0, spread=(0.5, 1.5)))
    assert uneven.step_s > even.step_s


@settings(max_examples=60)
@given(
    servers=st.integers(1, 5),
    capacity=st.integers(1, 6),
    groups=st.integers(1, 7),
    staleness=st.integers(0, 4),
    seconds=st.tuples(*[st.floats(0.0, 5.0) for _ in range(6)]),
    spread=st.lists(st.floats(0.1, 4.0), min_size=1, max_size=5),
)
def test_staleness_is_never_over_its_bound(servers, capacity, groups, staleness, seconds, spread):
    alone, shared, learner, prepare, push, pause = seconds
    setup = Setup(
        servers, capacity, groups, staleness, alone, shared, learner, prepare, push,
        min(pause, push), tuple(spread), steps=8,
    )  # fmt: skip
    found = simulate(setup)
    assert 0 <= found.staleness_mean <= found.staleness_max <= staleness
    assert 0 <= found.learner_idle_share <= 1 + 1e-9
    assert -1e-9 <= found.rollout_idle_share <= 1 + 1e-9
    assert found.last_step_s >= 8 * learner - 1e-6  # never faster than the learner


def test_a_setup_takes_its_seconds_from_rates():
    values = {part.rate: 1.0 for part in GROUP_PARTS}
    rates = some_rates(**values, stall_s=0.5, push_s=2.0, pause_s=9.0, group_shared_s=0.1)
    setup = Setup.of(rates, servers=3, capacity=4, max_staleness=1)
    assert setup.learner_s == 5.5 and setup.push_s == setup.pause_s == 2.0
    assert (setup.servers, setup.groups_per_step, setup.shared_s) == (3, 8, 0.1)


def test_a_server_shares_itself():
    """Two groups at 1 + 2 s a unit of work; when one is done the other goes on at 1 + 1 s."""
    server = ServerModel("a", alone_s=1.0, shared_s=1.0, capacity=2)
    server.resume(0, 0.0)
    server.start(None, 1.0, 0.0)
    server.start(None, 2.0, 0.0)
    assert server.next_done() == pytest.approx(3.0)
    assert len(server.take_done(3.0)) == 1
    assert server.next_done() == pytest.approx(3.0 + 2.0)
    server.pause(4.0)
    assert server.next_done() == float("inf")
    server.resume(1, 10.0)
    assert server.next_done() == pytest.approx(11.0)
    assert len(server.take_done(11.0)) == 1
    assert server.busy_s == pytest.approx(11.0)
