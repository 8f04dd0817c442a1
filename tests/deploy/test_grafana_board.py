"""The Grafana board: its file, its schema, its expressions.

Holds deploy/showing/board_panels.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from common.config_cli import build
from common.metrics import CHARTS, METRICS, lines_of
from common.scrape.exported import EXPORTED
from common.scrape.port import scrape_port
from deploy.grafana_board import board
from tests.prometheus import Prometheus, documented_config, running_prometheus
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy/grafana/vision-opd.json"
ROLES = {"broker": "broker", "rollout": "rollout-0", "learner": "learner-0", "launcher": "launcher"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, list[str]]:
    """What each panel asks, by its title."""
    return {panel["title"]: [t["expr"] for t in panel["targets"]] for panel in panels()}


def test_the_file_is_what_the_command_makes() -> None:
    assert json.loads(FILE.read_text()) == board()


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(document, list) and document:
        for place, value in enumerate(document):
            yield from leaves(value, f"{path}[{place}]")
    else:
        yield path, document


def lost(document: dict[str, Any]) -> dict[str, Any]:
    """What Grafana's own types do not give back when they have read a dashboard, by its path."""
    register_default_plugins()
    read = Dashboard.from_json(json.loads(json.dumps(document)))
    again = dict(leaves(json.loads(JSONEncoder().encode(read))))
    return {path: value for path, value in leaves(document) if again.get(path) != value}


def test_grafana_s_own_types_read_all_of_it() -> None:
    assert lost(json.loads(FILE.read_text())) == {}
    odd = board()
    odd["panels"][1]["options"]["graphModus"] = "area"
    odd["panels"][-1]["fieldConfig"]["defaults"]["custom"]["lineWith"] = 2
    assert [path.rpartition(".")[2] for path in lost(odd)] == ["graphModus", "lineWith"]


def test_no_panel_lies_on_another_and_each_has_a_number() -> None:
    cells = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, panel["title"]
                cells.add((x, y))
    numbers = [panel["id"] for panel in board()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_chart_and_every_healthy_range_is_on_it() -> None:
    asked = "\n".join(expression for found in expressions().values() for expression in found)
    for metric in METRICS.values():
        if metric.chart or metric.healthy:
            assert EXPORTED[metric.name].series in asked, metric.name
    assert [p["title"] for p in panels() if p["gridPos"]["w"] == 24] == [CHARTS[0].title]
    (drift,) = [p for p in panels() if p["title"] == CHARTS[0].title]
    (healthy,) = [line.healthy for line in lines_of(CHARTS[0]) if line.healthy]
    assert drift["fieldConfig"]["defaults"]["thresholds"]["steps"] == [
        {"color": "green", "value": None},
        {"color": "red", "value": healthy.high},
    ]


def test_names_in_expressions_are_declared() -> None:
    known = {family.series for family in EXPORTED.values()}
    for found in expressions().values():
        for expression in found:
            names = re.findall(r"\b(\w+)\{", expression)
            assert names and all(n in known or n.startswith("process_") for n in names), expression


async def test_prometheus_answers_every_panel(tmp_path: Path) -> None:
    readings: dict[str, Any] = {
        f.name: {"rollout-0": 1.0} if f.label else 1.0 for f in EXPORTED.values()
    }
    readings |= {"broker/version": 5, "broker/member_version": {"rollout-0": 5, "rollout-1": 4}}
    observed = {name: 1.0 for name in METRICS if name in EXPORTED}
    config = build({"run": {"folder": tmp_path / "run"}})
    (tmp_path / "prometheus").mkdir()
    documented = documented_config(tmp_path / "run" / "scrape")
    with running_prometheus(tmp_path / "prometheus", documented) as prometheus:
        async with (
            scrape_port(config, "broker", "broker", lambda: readings),
            scrape_port(config, "rollout", "rollout-0", lambda: readings),
            scrape_port(config, "learner", "learner-0", lambda: readings),
            scrape_port(config, "launcher", "launcher", lambda: {**readings, **observed}),
        ):
            await until(lambda: prometheus.scraped() == set(ROLES.values()))
            await until(lambda: unanswered(prometheus) == [])
            (behind,) = expressions()["Versions behind the learner"]
            found = prometheus.query(filled(behind))
            values = {one["metric"]["member"]: float(one["value"][1]) for one in found}
            assert values == {"rollout-0": 0, "rollout-1": 1}


def filled(expression: str) -> str:
    return expression.replace("$run", "run").replace("$__rate_interval", "1m")


def unanswered(prometheus: Prometheus) -> list[str]:
    """Expressions that find nothing. Raises HTTPError: one cannot be parsed."""
    asked = [expression for found in expressions().values() for expression in found]
    return [expression for expression in asked if not prometheus.query(filled(expression))]
