"""A figure is declared once, and nothing is half declared."""

import ast
import re
from pathlib import Path

from common.config import HealthSection
from common.metrics import EVALUATION, GATED, LEARNER, METRICS, PARTS, table
from deploy.showing.picture import SHOWN

ROOT = Path(__file__).resolve().parents[2]
AREAS = "learner|staleness|sync|checkpoint|health|time|evaluation|rollout"
NAME = re.compile(rf"({AREAS})/[a-z][a-z0-9_]*")
UNITS = {"nats": "nats", "s": "s", "seconds": "s", "share": "share", "accuracy": "share"}
UNITS |= {"steps": "steps", "tokens": "tokens", "per_s": "tokens/s"}


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
    for metric in METRICS.values():
        if metric.name == "slots_used":
            continue
        assert NAME.fullmatch(metric.name), metric.name
        ends = [word for word in UNITS if metric.name.endswith((f"_{word}", f"/{word}"))]
        if ends:
            assert metric.unit == UNITS[max(ends, key=len)], metric.name


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
    assert head == "| name | unit | taken over | gate | meaning |"
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in METRICS]
    assert any("health.length_growth" in line for line in lines)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
