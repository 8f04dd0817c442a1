"""A figure is declared once, and nothing is half declared."""

import ast
import re
from pathlib import Path

from common.config import HealthSection
from common.metrics import (
    CHARTS,
    ENDINGS,
    EVALUATION,
    GATED,
    LEARNER,
    METRICS,
    PARTS,
    document,
    is_healthy,
    lines_of,
    table,
)
from deploy.showing.picture import SHOWN

ROOT = Path(__file__).resolve().parents[2]
AREAS = "drift|learner|staleness|sync|checkpoint|health|time|evaluation|rollout|broker"
NAME = re.compile(rf"({AREAS})/[a-z][a-z0-9_]*")


def texts_in(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {text for text in found if NAME.fullmatch(text)}


def test_code_names_no_metric_that_is_not_declared() -> None:
    folders = [ROOT / "learner", ROOT / "deploy", ROOT / "rollout"]
    named = {text for folder in folders for path in folder.rglob("*.py") for text in texts_in(path)}
    assert len(named) > 30
    assert named <= METRICS.keys()


def test_a_name_says_area_and_unit() -> None:
    """A figure with a unit ends with it, and one that ends with a unit has it."""
    endings = [(f"{mark}{e}", unit) for unit, own in ENDINGS.items() for e in own for mark in "_/"]
    for metric in METRICS.values():
        assert NAME.fullmatch(metric.name), metric.name
        found = [pair for pair in endings if metric.name.endswith(pair[0])]
        longest = max(found, key=lambda pair: len(pair[0]), default=("", ""))
        assert metric.unit == longest[1], metric.name
    assert {metric.unit for metric in METRICS.values()} == {*ENDINGS, ""}


def test_a_chart_has_lines_and_a_line_has_a_chart() -> None:
    titles = [chart.title for chart in CHARTS]
    assert titles[0] == "Drift of rollout against learner" and len(set(titles)) == len(titles)
    drawn = [metric for chart in CHARTS for metric in lines_of(chart)]
    assert sorted(m.name for m in drawn) == sorted(m.name for m in METRICS.values() if m.chart)
    for chart in CHARTS:
        units = {(metric.unit == "share") for metric in lines_of(chart)}
        assert len(units) == 1, chart.title


def test_what_a_gate_bounds_is_healthy_up_to_its_bound() -> None:
    health = HealthSection()
    for metric, gate in GATED.items():
        ratio, bound = f"health/{gate.name}_ratio", getattr(health, gate.bound_key)
        match gate.kind:
            case "limit":
                assert is_healthy(metric.name, bound) and not is_healthy(metric.name, 1.01 * bound)
                assert is_healthy(ratio, 1.0) and not is_healthy(ratio, 1.01)
            case "growth":
                assert is_healthy(ratio, bound) and not is_healthy(ratio, 1.01 * bound)
            case "shrink":
                assert is_healthy(ratio, bound) and not is_healthy(ratio, 0.99 * bound)
            case "drop":
                assert is_healthy(metric.name, 0.0)  # its bound moves with the best


def test_a_value_that_is_no_number_is_not_healthy() -> None:
    assert is_healthy("learner/grad_norm", 1e30)
    assert not is_healthy("learner/grad_norm", None)
    assert not is_healthy("learner/grad_norm", float("nan"))
    assert not is_healthy("learner/ratio_mean", 0.5) and not is_healthy("learner/ratio_mean", 1.5)


def test_every_gate_has_its_bound_and_every_bound_its_gate() -> None:
    """A key of [health] that may be none is the bound of a gate."""
    fields = HealthSection.model_fields.items()
    bounds = [name for name, field in fields if field.annotation == float | None]
    assert sorted(bounds) == sorted(gate.bound_key for gate in GATED.values())


def test_no_name_is_given_twice() -> None:
    gates = [gate.name for gate in GATED.values()]
    gauges = [m.gauge for m in METRICS.values() if m.gauge]
    assert len(gates) == len(set(gates)) and len(gauges) == len(set(gauges))
    assert len((*LEARNER, *PARTS)) == len({m.name for m in (*LEARNER, *PARTS)})
    assert not {m.name for m in EVALUATION} & {m.name for m in (*LEARNER, *PARTS)}


def test_the_line_of_a_live_run_shows_gauges_that_the_learner_sends() -> None:
    assert {key for _, key, _ in SHOWN} <= {metric.gauge for metric in METRICS.values()}


def test_the_table_has_a_line_for_each_metric() -> None:
    head, _, *lines = table().splitlines()
    assert head == "| name | unit | taken over | healthy | gate | meaning |"
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in METRICS]
    assert any("health.length_growth" in line for line in lines)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}


def test_the_table_in_the_documents_is_this_one() -> None:
    """python -m common.metrics > common/METRICS.md writes it anew."""
    assert (ROOT / "common/METRICS.md").read_text(encoding="utf-8") == document()
