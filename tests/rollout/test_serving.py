"""A rollout server's gauges."""

from common.scrape.exported import EXPORTED
from rollout.serving import Figures, by_server


def test_a_look_at_the_gauges_begins_no_new_interval() -> None:
    figures = Figures()
    assert "tokens_per_s" not in figures.now(None)
    figures.group_started()
    figures.tokens_total = 100
    told = figures.take(3)
    assert told["tokens_per_s"] > 0 and told["serving_version"] == 3
    figures.tokens_total = 160
    looked = figures.now(None)
    assert looked["tokens_per_s"] == told["tokens_per_s"]
    assert (looked["tokens_total"], looked["serving_version"]) == (160, -1)
    assert figures.now(None) == looked


def test_gauges_of_several_servers_are_told_by_server_and_declared() -> None:
    first, second = Figures(), Figures()
    second.group_started()
    told = by_server({"rollout-0.0": first.take(1), "rollout-0.1": second.take(2)})
    assert told["rollout/groups_in_flight"] == {"rollout-0.0": 0, "rollout-0.1": 1}
    assert told["rollout/serving_version"] == {"rollout-0.0": 1, "rollout-0.1": 2}
    assert all(EXPORTED[name].label == "server" for name in told)
