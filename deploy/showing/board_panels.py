"""Panels of a Grafana dashboard, as its JSON has them (schema 36, Grafana 10 and later)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics import Range

SOURCE = {"type": "prometheus", "uid": "${source}"}
Panel = dict[str, Any]
_COLUMNS = 24  # of Grafana's grid
_UNITS = {  # Grafana's names by ours
    "": "short",
    "s": "s",
    "share": "percentunit",
    "bytes": "bytes",
    "nats": "suffix: nats",
    "tokens": "short",
    "steps": "short",
    "tokens/s": "suffix: tokens/s",
}


@dataclass(frozen=True)
class Query:
    """One expression of PromQL, and the legend of what answers it ({{label}} is filled in)."""

    expression: str
    legend: str


@dataclass(frozen=True)
class BoardRow:
    """A headline and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


def curves(
    title: str,
    unit: str,
    queries: Sequence[Query],
    note: str = "",
    healthy: Range | None = None,
    width: int = 8,
) -> Panel:
    """Lines over time.

    Args:
        unit: of the values, as `common.metrics` has it.
        healthy: is marked by lines; None marks nothing.
        width: columns out of 24.
    """
    look: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto"}
    look |= {"spanNulls": 60_000}  # milliseconds: a scrape or two may be missed
    if healthy is not None:
        look["thresholdsStyle"] = {"mode": "dashed"}
    panel = _panel("timeseries", title, unit, queries, note, healthy, width, 8)
    panel["fieldConfig"]["defaults"]["custom"] = look
    panel["options"] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def number(title: str, unit: str, query: Query, note: str, healthy: Range | None = None) -> Panel:
    """The newest value, large, over its curve."""
    panel = _panel("stat", title, unit, [query], note, healthy, 4, 4)
    panel["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
        "colorMode": "value" if healthy else "none",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value",
    }
    return panel


def laid_out(rows: Sequence[BoardRow]) -> list[Panel]:
    """All panels with their places and numbers, row after row."""
    placed: list[Panel] = []
    top = 0
    for row in rows:
        headline = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        placed.append(headline | {"gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top}})
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            size = panel["gridPos"]
            if left + size["w"] > _COLUMNS:
                top, left, height = top + height, 0, 0
            placed.append(panel | {"gridPos": {**size, "x": left, "y": top}})
            left, height = left + size["w"], max(height, size["h"])
        top += height
    return [panel | {"id": place} for place, panel in enumerate(placed, 1)]


def _panel(
    kind: str,
    title: str,
    unit: str,
    queries: Sequence[Query],
    note: str,
    healthy: Range | None,
    width: int,
    height: int,
) -> Panel:
    defaults: dict[str, Any] = {"unit": _UNITS[unit], "thresholds": _thresholds(healthy)}
    defaults["color"] = {"mode": "palette-classic" if kind == "timeseries" else "thresholds"}
    targets = [
        {
            "datasource": SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "refId": chr(ord("A") + place),
        }
        for place, query in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": note,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "gridPos": {"h": height, "w": width},
    }


def _thresholds(healthy: Range | None) -> dict[str, Any]:
    """Colours by value: red outside of the range."""
    low, high = (-math.inf, math.inf) if healthy is None else (healthy.low, healthy.high)
    begins_red = math.isfinite(low)
    steps: list[dict[str, Any]] = [{"color": "red" if begins_red else "green", "value": None}]
    if begins_red:
        steps.append({"color": "green", "value": low})
    if math.isfinite(high):
        steps.append({"color": "red", "value": high})
    return {"mode": "absolute", "steps": steps}
