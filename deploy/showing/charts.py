"""Line charts as inline SVG, drawn with the page's own colours (CSS variables)."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from common.chart_axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    figure,
    mark_below,
    name_below,
    rules_across,
    tick_label,
)

NUM_COLORS = 6


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]  # x ascending; finite


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    is_share: bool = False,
    note: str = "",
    across_name: str = "step",
    from_zero: bool = True,
) -> str:
    """A figure with one line a series; nothing when there are no points.

    Args:
        unit: of the vertical axis, in words.
        is_share: values are in [0, 1] and shown as percentages.
        across_name: of the horizontal axis.
        from_zero: the vertical axis has 0 on it.
    """
    drawn = [s for s in series if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    least_step = 1 if all(x == int(x) for x in xs) else 0
    across = Axis.covering(min(xs), max(xs), LEFT, WIDTH - RIGHT, least_step)
    up = Axis.covering(min(ys + [0.0] * from_zero), max(ys), HEIGHT - BOTTOM, TOP)
    lines = [_line(s, i % NUM_COLORS, across, up, across_name) for i, s in enumerate(drawn)]
    legend = "".join(
        f'<span class="key c{i % NUM_COLORS}">{escape(s.name)}</span>' for i, s in enumerate(drawn)
    )
    caption = f"<small>{escape(note)}</small>" if note else ""
    steps = "".join(mark_below(across.at(tick), tick_label(tick)) for tick in across.ticks)
    drawing = f"{rules_across(up, is_share)}{steps}{name_below(across_name)}{''.join(lines)}"
    return figure(title, unit, drawing, f'<div class="legend">{legend}</div>{caption}')


def _line(series: Series, color: int, across: Axis, up: Axis, across_name: str) -> str:
    points = " ".join(f"{across.at(x)},{up.at(y)}" for x, y in series.points)
    dots = ""
    if len(series.points) <= 25:
        dots = "".join(
            f'<circle class="dot c{color}" cx="{across.at(x)}" cy="{up.at(y)}" r="2.6">'
            f"<title>{escape(across_name)} {x:g}: {y:.4g}</title></circle>"
            for x, y in series.points
        )
    return f'<polyline class="line c{color}" points="{points}"/>{dots}'
