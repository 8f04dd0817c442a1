"""Figures by the values of the columns that data.keep_columns names, from RUN/groups.jsonl."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.metrics import GATED, Metric, Over
from deploy.inspector.followed import FollowedRows

Row = dict[str, Any]
_VALUES = 30  # shown of a column, those with most groups
_WEIGHTS = {Over.TOKENS: "learner/tokens", Over.TRAJECTORIES: "learner/trajectories"}
_SHOWN = [metric for metric in GATED if metric.over in _WEIGHTS]
_NOTHING = "\N{EN DASH}"


def column_tables(run: Path) -> list[dict[str, Any]]:
    """A table for each column, {"title", "note", "header", "rows"} of texts; none without groups.

    They say how figures went for each value.
    """
    rows = FollowedRows(run / "groups.jsonl").look().rows
    groups = [row for row in rows if isinstance(row.get("columns"), dict)]
    columns = dict.fromkeys(name for group in groups for name in group["columns"])
    return [_table(column, groups) for column in columns]


def _table(column: str, groups: Sequence[Row]) -> dict[str, Any]:
    by_value: defaultdict[str, list[Row]] = defaultdict(list)
    for group in groups:
        by_value[group["columns"].get(column) or "(empty)"].append(group)
    found = sorted(by_value.items(), key=lambda item: (-len(item[1]), item[0]))
    middle = (groups[0]["step"] + groups[-1]["step"]) / 2
    left = len(found) - _VALUES
    rest = f" {left} values with fewer groups are left out." if left > 0 else ""
    names = [f"{m.name} ({m.unit})" if m.unit else m.name for m in _SHOWN]
    return {
        "title": f"By {column}",
        "note": f"Means over the first half of the steps and over the second.{rest}",
        "header": [column, "groups", *names],
        "rows": [
            [value, f"{len(own)}", *(_change(metric, own, middle) for metric in _SHOWN)]
            for value, own in found[:_VALUES]
        ],
    }


def _change(metric: Metric, groups: Sequence[Row], middle: float) -> str:
    halves = [g for g in groups if g["step"] <= middle], [g for g in groups if g["step"] > middle]
    return " → ".join(_mean(metric, half) for half in halves)


def _mean(metric: Metric, groups: Sequence[Row]) -> str:
    """The mean over tokens or trajectories, not over groups; of those that have the figure."""
    weight = _WEIGHTS[metric.over]
    pairs = [(g[metric.name], g[weight]) for g in groups if g.get(metric.name) is not None]
    total = sum(weight for _, weight in pairs)
    return f"{math.fsum(v * w for v, w in pairs) / total:.4g}" if total else _NOTHING
