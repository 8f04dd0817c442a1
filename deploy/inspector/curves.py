"""The curves of a run: the charts that `common.metrics` declares, in few enough points to draw."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from common.metrics import CHARTS, OBSERVED, Chart, Metric, lines_of
from deploy.inspector.figures import Points, RunFigures

MAX_POINTS = 600  # of a line


def curves(figures: RunFigures) -> dict[str, Any]:
    """The answer of `curves`: the charts that have a point, in their declared order."""
    figures.look()
    charts = [_chart(chart, figures) for chart in CHARTS]
    return {"charts": [chart for chart in charts if chart["lines"]]}


def _chart(chart: Chart, figures: RunFigures) -> dict[str, Any]:
    lines: list[tuple[Metric, Points]] = []
    for metric in lines_of(chart):
        points = figures.points(metric.name)
        if metric in OBSERVED:
            points = _running_mean(points)
        if points:
            lines.append((metric, points))
    steps = _kept_steps([points for _, points in lines])
    shown = [_line(metric, points, steps) for metric, points in lines]
    is_share = lines_of(chart)[0].unit == "share"
    words = {"title": chart.title, "unit": chart.unit, "note": chart.note}
    return {**words, "is_share": is_share, "lines": shown}


def _line(metric: Metric, points: Points, steps: set[int]) -> dict[str, Any]:
    assert metric.chart is not None
    shown = [[x, y] for x, y in points if x in steps]
    return {"metric": metric.name, "label": metric.chart[1], "points": shown}


def _kept_steps(lines: Sequence[Points]) -> set[int]:
    """The steps that a chart shows, of all its lines: who points at one sees all values."""
    is_long = any(len(points) > MAX_POINTS for points in lines)
    kept = [decimated(points, MAX_POINTS // len(lines)) if is_long else points for points in lines]
    return {x for points in kept for x, _ in points}


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
