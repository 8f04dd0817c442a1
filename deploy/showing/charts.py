"""Line charts as inline SVG, drawn with the page's own colours (CSS variables)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 220  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 34
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
    across = _Axis.covering(min(xs), max(xs), LEFT, WIDTH - RIGHT, least_step)
    up = _Axis.covering(min(ys + [0.0] * from_zero), max(ys), HEIGHT - BOTTOM, TOP)
    lines = [_line(s, i % NUM_COLORS, across, up, across_name) for i, s in enumerate(drawn)]
    legend = "".join(
        f'<span class="key c{i % NUM_COLORS}">{escape(s.name)}</span>' for i, s in enumerate(drawn)
    )
    caption = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<figure><figcaption><b>{escape(title)}</b> <span class="unit">{escape(unit)}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_grid(across, up, is_share, across_name)}{''.join(lines)}</svg>"
        f'<div class="legend">{legend}</div>{caption}</figure>'
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float  # in drawing units, where `low` is
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def covering(
        cls, low: float, high: float, start: float, end: float, least_step: float = 0
    ) -> "_Axis":
        step = max(least_step, _round_step((high - low) / 4 or abs(high) / 2 or 1.0))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        ticks = tuple(i * step for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, end, ticks)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _grid(across: _Axis, up: _Axis, is_share: bool, across_name: str) -> str:
    parts = []
    for tick in up.ticks:
        y = up.at(tick)
        label = f"{100 * tick:.4g}%" if is_share else _label(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{label}</text>'
        )
    for tick in across.ticks:
        parts.append(
            f'<text x="{across.at(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{_label(tick)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    name = f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(across_name)}</text>'
    parts.append(name)
    return "".join(parts)


def _line(series: Series, color: int, across: _Axis, up: _Axis, across_name: str) -> str:
    points = " ".join(f"{across.at(x)},{up.at(y)}" for x, y in series.points)
    dots = ""
    if len(series.points) <= 25:
        dots = "".join(
            f'<circle class="dot c{color}" cx="{across.at(x)}" cy="{up.at(y)}" r="2.6">'
            f"<title>{escape(across_name)} {x:g}: {y:.4g}</title></circle>"
            for x, y in series.points
        )
    return f'<polyline class="line c{color}" points="{points}"/>{dots}'


def _label(value: float) -> str:
    return f"{value:.4g}"
