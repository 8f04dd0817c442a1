"""What Prometheus is told, by name."""

import re
from collections import Counter

from prometheus_client.exposition import generate_latest

from common.metrics import METRICS
from common.scrape.collector import registry_of
from common.scrape.exported import EXPORTED, Exported
from tests.prometheus import complaints


def test_a_name_is_made_from_that_of_the_figure() -> None:
    made = {
        "learner/loss_nats": "vision_opd_learner_loss_nats",
        "learner/step_s": "vision_opd_learner_step_seconds",
        "rollout/tokens_per_s": "vision_opd_rollout_tokens_per_second",
        "evaluation/stall_s": "vision_opd_evaluation_stall_seconds",
    }
    assert {name: Exported(name, "").series for name in made} == made
    assert Exported("broker/syncs", "", is_counter=True).series == "vision_opd_broker_syncs_total"


def test_every_figure_of_a_row_that_is_a_number_has_one() -> None:
    for metric in METRICS.values():
        assert (metric.name in EXPORTED) is (metric.unit != "text"), metric.name
        if metric.name in EXPORTED:
            assert metric.meaning in EXPORTED[metric.name].meaning


def test_names_are_valid_and_differ() -> None:
    names = [family.series for family in EXPORTED.values()]
    assert [name for name in names if not re.fullmatch(r"[a-z_][a-z0-9_]*", name)] == []
    assert [name for name, number in Counter(names).items() if number > 1] == []


def test_promtool_finds_nothing_to_say_about_any_of_them() -> None:
    readings = {f.name: {"one": 1.0, "two": 2.0} if f.label else 1.0 for f in EXPORTED.values()}
    registry = registry_of(lambda: readings, {"run": "r", "role": "x", "process": "x-0"})
    text = generate_latest(registry).decode()
    assert all(family.series in text for family in EXPORTED.values())
    assert complaints(text) == ""
    assert "counter metrics should have" in complaints(text.replace("syncs_total", "syncs"))
