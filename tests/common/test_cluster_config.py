from typing import Any

import pytest

from common.config_cli import build, load
from common.errors import ConfigError


@pytest.mark.parametrize("gpus", [0, 0.25, 1, 8])
def test_gpus_are_whole_ones_or_a_share(gpus: float) -> None:
    tree = {"learner_pool": {"gpus": gpus}}
    assert build(tree).learner_pool.gpus == gpus


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ({"gpus": 1.5}, "no whole number, nor a share of one GPU"),
        ({"gpus": -1}, "learner_pool.gpus"),
        ({"cpus": 0}, "learner_pool.cpus"),
        ({"nodes": 0}, "learner_pool.nodes"),
        ({"labels": ["pool"]}, "'pool' is not KEY=VALUE"),
        ({"labels": ["=train"]}, "'=train' is not KEY=VALUE"),
        ({"labels": ["pool="]}, "'pool=' is not KEY=VALUE"),
        *(
            ({"labels": [label]}, "is no label: letters, digits and ._- in name and value")
            for label in (
                *("a=$(id) b", "pool=a b", "pool=-a", "pool=a\\n", "a;b=c", "/a=b", "A!/a=b"),
                "pool=" + "x" * 64,
            )
        ),
        ({"image": ""}, "learner_pool.image"),
        ({"gpu": 1}, "learner_pool.gpu"),
    ],
)
def test_what_cannot_be_placed_is_a_clear_error(pool: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"learner_pool": pool})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("drain_s", 0),
        ("max_restarts", -1),
        ("restart_window_s", 0),
        ("restart_delay_s", 0),
        ("place_timeout_s", 0),
        ("log_mib", 0),
        ("log_files", 0),
    ],
)
def test_a_limit_that_is_none_is_a_clear_error(key: str, wrong: float) -> None:
    with pytest.raises(ConfigError, match=rf"cluster\.{key}"):
        build({"cluster": {key: wrong}})


def test_no_restarts_can_be_asked_for() -> None:
    assert build({"cluster": {"max_restarts": 0}}).cluster.max_restarts == 0


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"learner": {"ranks": 3}, "learner_pool": {"nodes": 2}}, "cannot be spread evenly"),
        ({"learner": {"ranks": 97, "groups_per_step": 96}}, "each needs a group of every step"),
        ({"learner": {"ranks": 6, "shard_ranks": 4}}, "cannot be divided into replicas"),
        ({"broker_pool": {"gpus": 1}}, "broker_pool.gpus: the broker uses none"),
        ({"rollout_pool": {"gpus": 2}}, "sglang.tensor_parallel = 1 GPUs"),
    ],
)
def test_pools_that_do_not_fit_the_run_are_a_clear_error(tree: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tree)
    assert told in str(caught.value) and "Fix: " in str(caught.value)


def test_labels_are_given_on_a_command_line() -> None:
    config = load(["--rollout_pool.labels", "pool=rollout,ray.io/accelerator-type=H100"])
    assert config.rollout_pool.labels == ("pool=rollout", "ray.io/accelerator-type=H100")
