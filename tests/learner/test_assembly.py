"""What a run's configuration makes of its parts."""

from types import SimpleNamespace

import pytest
import torch

from common.config_cli import build
from common.push_groups import PREFIX
from learner.assembly import _publisher
from learner.ranks import Ranks


@pytest.mark.parametrize(("urls", "is_greeting"), [((), True), (("http://127.0.0.1:1",), False)])
def test_servers_that_others_started_are_joined_as_plain_sglang_joins(tmp_path, urls, is_greeting):
    config = build({"run": {"folder": str(tmp_path)}, "rollout": {"engine_urls": urls}})
    feed = SimpleNamespace(history=0, is_over=False, welcome=SimpleNamespace(heartbeat_s=1.0))
    ranks = Ranks(0, 1, torch.device("cpu"), 1.0)
    publisher = _publisher(config, ranks, feed, torch.nn.Linear(2, 2), checks=None)
    assert publisher._route.name_prefix.startswith(PREFIX) == is_greeting
