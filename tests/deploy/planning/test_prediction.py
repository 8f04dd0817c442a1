from dataclasses import replace

import pytest

from deploy.planning.assumed import assumed_rates
from deploy.planning.devices import GIB, LEARNER_SHARE
from deploy.planning.layout import Layout, layouts
from deploy.planning.plan_text import Question, launch_flags, page, to_plan_json
from deploy.planning.prediction import best_servers, make_plan, total_s
from tests.deploy.planning.shapes import DEVICE, MACHINES, SHAPE, WORK, config, some_rates

ROOMY = replace(DEVICE, memory=64.0 * GIB)
FOUR = replace(MACHINES, learner_device=ROOMY, rollout_device=ROOMY)


SPLITS = [Layout(1, 3, 1), Layout(2, 2, 1), Layout(3, 1, 1)]


def plan_for(rates, machines=FOUR, splits=None, **sections):
    run = config(**sections)
    splits = splits or layouts(run, machines)

    def scaled(layout):
        return rates.for_ranks(layout.ranks, layout.shards(run))

    rates_of = rates if callable(rates) else scaled
    plan = make_plan(run, SHAPE, WORK, machines, splits, rates_of)
    return Question(run, ("--config", "x.toml"), SHAPE, WORK, machines, 10), plan


def test_the_best_split_balances_both_sides():
    """24 s of the learner on one GPU, 8 s of generation on one: three ranks to one server."""
    rates = some_rates(backward_s=24, group_shared_s=1.0, push_s=0.1)
    _, plan = plan_for(rates, splits=SPLITS)
    assert plan.best.layout == Layout(1, 3, 1) and plan.best.max_staleness == 1
    assert plan.best.step_s == pytest.approx(9.0)  # three of eight groups on the busiest rank
    generating = some_rates(backward_s=8, group_shared_s=3.0, push_s=0.1)
    assert plan_for(generating, splits=SPLITS)[1].best.layout == Layout(3, 1, 1)


def test_synchronous_on_all_gpus_wins_where_splits_are_uneven():
    """Generation is next to nothing: a GPU of its own would be wasted on it."""
    _, plan = plan_for(some_rates(backward_s=80, group_shared_s=0.01))
    assert plan.best.layout == Layout(4, 4, 1, is_shared=True) and plan.best.is_synchronous
    assert plan.best.step_s < plan.overlapping.step_s


def test_synchronous_is_preferred_where_it_is_as_fast():
    split = [Layout(1, 3, 1)]
    question, plan = plan_for(some_rates(backward_s=24, group_shared_s=0.001), splits=split)
    assert plan.best is plan.synchronous
    assert "Synchronous is as fast as overlapping here" in page(question, plan)


def test_what_does_not_fit_is_not_chosen():
    small = replace(DEVICE, memory=1.0)
    machines = replace(MACHINES, learner_device=small, rollout_device=small)
    question, plan = plan_for(some_rates(backward_s=1), machines)
    assert plan.best is None
    text = page(question, plan)
    assert "Nothing fits" in text and "learner.offload" in text and "!" in text
    assert to_plan_json(question, plan)["recommended"] is None


def test_the_page_says_what_is_assumed_and_how_to_launch():
    run = config()
    question, plan = plan_for(
        lambda layout: assumed_rates(run, SHAPE, WORK, FOUR, layout),
    )
    text = page(question, plan)
    for words in (
        "What this rests on", "assumed", "Splits", "Recommended", "What limits it",
        "deploy/launch_cluster.sh --config x.toml --", " --learner.ranks ",
        f"{LEARNER_SHARE:.0%} of peak",
    ):  # fmt: skip
        assert words in text, text
    read = [line for line in text.splitlines() if "launch_cluster.sh" not in line]  # that is copied
    assert max(map(len, read)) < 180


def test_rates_of_other_machines_are_pointed_out():
    rates = replace(some_rates(backward_s=8, group_shared_s=1), machines="1 CPU thread")
    question, plan = plan_for(rates)
    assert "the rates are of 1 CPU thread" in page(question, plan)


def test_flags_say_what_differs_from_the_configuration():
    question, plan = plan_for(some_rates(backward_s=24, group_shared_s=1.0), splits=SPLITS)
    assert launch_flags(question, plan.best) == [
        "--learner.ranks", "3", "--broker.max_staleness", "1", "--rollout_pool.gpus", "1",
        "--learner_pool.gpus", "1",
    ]  # fmt: skip


def test_flags_of_a_shared_layout_share_each_gpu():
    question, plan = plan_for(some_rates(backward_s=80, group_shared_s=0.01))
    flags = dict(zip(*[iter(launch_flags(question, plan.best))] * 2, strict=True))
    assert flags["--rollout_pool.gpus"] == flags["--learner_pool.gpus"] == "0.5"
    assert flags["--weights.backend"] == "gloo"  # NCCL takes no two ranks on one GPU
    assert 0 < float(flags["--sglang.memory_fraction"]) < 1


def test_a_plan_in_json_has_every_split():
    question, plan = plan_for(some_rates(backward_s=24, group_shared_s=1.0), splits=SPLITS)
    content = to_plan_json(question, plan)
    assert len(content["predictions"]) == len(plan.predictions)
    best = content["recommended"]
    assert (best["servers"], best["ranks"], best["max_staleness"]) == (1, 3, 1)
    assert best["step_s"] == plan.best.step_s
    assert best["total_s"] == total_s(plan.best, question.config, 10)


@pytest.mark.parametrize(
    ("alone_s", "backward_s", "expected"), [(1.0, 8.0, 1), (1.0, 2.0, 4), (0.001, 8.0, 1)]
)
def test_the_fewest_servers_that_do(alone_s, backward_s, expected):
    """A step of eight groups takes eight seconds of a server that makes one at a time."""
    rates = some_rates(group_alone_s=alone_s, backward_s=backward_s)
    assert best_servers(rates, capacity=1, max_staleness=2) == expected


def test_servers_that_get_nothing_are_not_advised():
    """One server asks for all eight groups of a step, so that a third one would stand idle."""
    rates = some_rates(group_shared_s=1.0, backward_s=0.5)
    assert best_servers(rates, capacity=8, max_staleness=1) == 2


def test_groups_are_spread_over_all_servers_where_that_is_faster():
    rates = some_rates(group_shared_s=1.0, backward_s=1.0)
    question, plan = plan_for(rates, splits=[Layout(2, 2, 1)])
    assert plan.best.capacity == 4
    assert "--rollout.max_concurrent_groups 4" in " ".join(launch_flags(question, plan.best))


def test_a_run_is_its_start_its_steps_and_its_checkpoints():
    rates = some_rates(backward_s=8, group_shared_s=0.1, startup_s=100, checkpoint_s=7)
    question, plan = plan_for(rates, checkpoint={"every_steps": 5})
    best = plan.best
    assert total_s(best, question.config, 10) == pytest.approx(100 + 10 * best.step_s + 2 * 7)
