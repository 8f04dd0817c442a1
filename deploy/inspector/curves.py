"""The curves of a run: the charts that `common.metrics` declares, in few enough points to draw."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from common.metrics import METRICS, OBSERVED, Metric
from deploy.inspector.figures import Points, RunFigures

MAX_POINTS = 600  # of a line
_SMOOTHED = "Rollout servers tell it now and then: a running mean over nine steps."
_CHARTS = {  # unit in words and note, by title; the first in their order, others follow
    "Student against rollout": ("probability ratio of sampled tokens", ""),
    "Accuracy": (
        "share of held-out answers",
        "By the step whose weights answered, on rollout servers. Points in between are measured on "
        "fewer scenes than the first and the last.",
    ),
    "Loss": ("nats", ""),
    "Staleness": ("steps", ""),
    "Throughput": ("response tokens a second", _SMOOTHED),
    "Idle": ("share of time", _SMOOTHED),
    "A step's parts": ("seconds", ""),
    "Gradient norm": ("before clipping", ""),
}


def curves(figures: RunFigures) -> dict[str, Any]:
    """The answer of `curves`: charts that have a point, drift first."""
    figures.look()
    lines: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        if metric.chart is not None:
            lines.setdefault(metric.chart[0], []).append(metric)
    charts = [_chart(title, lines[title], figures) for title in _in_order(lines)]
    return {"charts": [chart for chart in charts if chart["lines"]]}


def _in_order(titles: Sequence[str] | dict[str, list[Metric]]) -> list[str]:
    known = list(_CHARTS)

    def place(title: str) -> tuple[bool, int]:
        return "drift" not in title.lower(), known.index(title) if title in known else len(known)

    return sorted(titles, key=place)


def _chart(title: str, metrics: Sequence[Metric], figures: RunFigures) -> dict[str, Any]:
    unit, note = _CHARTS.get(title, (metrics[0].unit, ""))
    lines = []
    for metric in metrics:
        points = figures.points(metric.name)
        if metric in OBSERVED:
            points = _running_mean(points)
        if points:
            assert metric.chart is not None
            shown = [list(point) for point in decimated(points)]
            lines.append({"metric": metric.name, "label": metric.chart[1], "points": shown})
    is_share = metrics[0].unit == "share"
    return {"title": title, "unit": unit, "note": note, "is_share": is_share, "lines": lines}


def _running_mean(points: Points) -> Points:
    """Each point with the mean of itself and up to four on either side."""
    nearby = [points[max(0, i - 4) : i + 5] for i in range(len(points))]
    return [(x, fmean(y for _, y in near)) for (x, _), near in zip(points, nearby, strict=True)]


def decimated(points: Points, most: int = MAX_POINTS) -> Points:
    """At most so many points: first, last, and the lowest and highest of each of equal parts."""
    if len(points) <= most:
        return points
    values = np.array([value for _, value in points])
    edges = np.linspace(1, len(points) - 1, (most - 2) // 2 + 1).astype(int)
    kept = {0, len(points) - 1}
    for begin, end in pairwise(edges.tolist()):
        kept |= {begin + int(values[begin:end].argmin()), begin + int(values[begin:end].argmax())}
    return [points[i] for i in sorted(kept)]
