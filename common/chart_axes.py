"""The frame of a chart in inline SVG, drawn with the page's own colours (CSS variables)."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 220  # size of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 34


@dataclass(frozen=True)
class Axis:
    """Where values lie in a drawing."""

    low: float
    high: float
    start: float  # in drawing units, where `low` is
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def covering(
        cls, low: float, high: float, start: float, end: float, least_step: float = 0
    ) -> "Axis":
        """Make an axis with round ticks, the outer ones at or beyond the values."""
        step = max(least_step, round_step((high - low) / 4 or abs(high) / 2 or 1.0))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        ticks = tuple(i * step for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, end, ticks)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def figure(title: str, unit: str, drawing: str, foot: str = "", label: str = "") -> str:
    """A chart with its caption.

    Args:
        drawing: SVG's elements.
        foot: HTML below.
        label: the text for a reader who cannot see it; empty means the title.
    """
    return (
        f'<figure><figcaption><b>{escape(title)}</b> <span class="unit">{escape(unit)}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label or title)}">{drawing}</svg>{foot}</figure>'
    )


def rules_across(up: Axis, is_share: bool = False) -> str:
    """A line and a label at each tick of the vertical axis."""
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up.at(tick)}" '
        f'y2="{up.at(tick)}"/><text x="{LEFT - 7}" y="{up.at(tick) + 4}" text-anchor="end">'
        f"{f'{100 * tick:.4g}%' if is_share else tick_label(tick)}</text>"
        for tick in up.ticks
    )


def mark_below(x: float, text: str) -> str:
    """A label of the horizontal axis, at `x` in drawing units."""
    return f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'


def name_below(text: str) -> str:
    """The name of the horizontal axis."""
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(text)}</text>'


def tick_label(value: float) -> str:
    return f"{value:.4g}"
