from common.config_cli import build
from deploy.cluster.pools import Pool, pools_of, process_name


def test_the_quickstart_has_a_pool_of_each_kind_the_hardest_to_place_first() -> None:
    pools = pools_of(build({}))
    assert [pool.name for pool in pools] == ["learner", "rollout", "broker"]
    assert [pool.processes for pool in pools] == [1, 1, 1]
    assert [pool.nodes for pool in pools] == [1, None, None], "ranks are placed all or not at all"


def test_a_pool_is_what_its_section_says() -> None:
    config = build(
        {
            "learner": {"ranks": 4},
            "rollout": {"servers": 6},
            "learner_pool": {"cpus": 8, "gpus": 1, "nodes": 2, "labels": ["pool=train", "a=b.c"]},
            "rollout_pool": {"gpus": 0.5, "nodes": 3},
        }
    )
    learner, rollout, broker = pools_of(config)
    assert learner == Pool("learner", 4, 8, 1, 2, {"pool": "train", "a": "b.c"})
    assert rollout == Pool("rollout", 6, 1, 0.5, 3, {})
    assert broker == Pool("broker", 1, 1, 0, None, {})


def test_names_are_those_of_logs_and_members() -> None:
    assert Pool("learner", 2, 1, 0, 1).process_names() == ["learner-0", "learner-1"]
    assert process_name("rollout", 10) == "rollout-10"
    assert process_name("broker", 0) == "broker"
