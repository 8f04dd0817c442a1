"""deploy/cluster/environments.py: what a machine runs before a process starts there."""

import sys

import pytest

from common.config_cli import build
from deploy.cluster.environments import set_up_command
from deploy.cluster.pools import PoolName
from deploy.cluster.process_specs import ROOT

OURS = str(ROOT / ".venv" / "bin" / "python")


@pytest.mark.parametrize(
    ("pool", "tree", "words"),
    [
        ("broker", {}, "broker"),
        ("learner", {}, "learner"),
        ("rollout", {}, "rollout"),
        ("rollout", {"rollout": {"engine": "embedded"}}, "rollout without-sglang"),
        ("rollout", {"rollout": {"engine_urls": ["http://a:1"]}}, "rollout without-sglang"),
        ("rollout", {"sglang": {"python": "/opt/python"}}, "rollout without-sglang"),
    ],
)
def test_set_up_command_makes_what_the_pool_needs(pool: PoolName, tree: dict, words: str) -> None:
    assert set_up_command(pool, build(tree), OURS) == ("deploy/setup.sh", *words.split())


@pytest.mark.parametrize("pool", ["broker", "rollout", "learner"])
def test_set_up_command_leaves_a_named_python_alone(pool: PoolName) -> None:
    config = build({f"{pool}_pool": {"python": sys.executable}})
    assert set_up_command(pool, config, OURS) is None


def test_set_up_command_makes_sglang_alone_where_ours_is_not_used() -> None:
    config = build({})
    assert set_up_command("rollout", config, "/usr/bin/python3") == ("deploy/setup.sh", "sglang")
    assert set_up_command("learner", config, "/usr/bin/python3") is None
    assert set_up_command("broker", config, "/usr/bin/python3") is None
