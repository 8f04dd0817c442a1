"""A row a variant: a dot a run, a bar at their median. Inline SVG in the report's colours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _TOP, _BOTTOM, _RIGHT = 640, 22, 8, 26, 16  # of the drawing, in its own units
_LETTER = 6.2  # width of one, about
_NUM_TICKS = 4


@dataclass(frozen=True)
class DotRow:
    name: str
    values: Sequence[float]  # at least one
    middle: float


def dot_chart(title: str, rows: Sequence[DotRow], is_share: bool) -> str:
    """A figure; nothing without rows.

    Args:
        is_share: values are shown as percentages.
    """
    if not rows:
        return ""
    left = 16 + _LETTER * max(len(row.name) for row in rows)
    low = min(min(row.values) for row in rows)
    span = (max(max(row.values) for row in rows) - low) or abs(low) or 1.0

    def at(value: float) -> float:
        return round(left + (value - low) / span * (_WIDTH - _RIGHT - left), 1)

    height = _TOP + _ROW * len(rows) + _BOTTOM
    ticks = [low + span * i / _NUM_TICKS for i in range(_NUM_TICKS + 1)]
    lines = "".join(_tick(at(tick), tick, height, is_share) for tick in ticks)
    drawn = "".join(_row(row, _TOP + _ROW * (i + 0.5), at) for i, row in enumerate(rows))
    return (
        f"<figure><figcaption><b>{escape(title)}</b></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{lines}{drawn}</svg></figure>"
    )


def _tick(x: float, value: float, height: float, is_share: bool) -> str:
    label = f"{value:.1%}" if is_share else f"{value:.3g}"
    return (
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        f'<text x="{x}" y="{height - 8}" text-anchor="middle">{label}</text>'
    )


def _row(row: DotRow, y: float, at: Callable[[float], float]) -> str:
    dots = "".join(
        f'<circle class="dot c0" cx="{at(value)}" cy="{y}" r="3.2" opacity="0.65">'
        f"<title>{escape(row.name)}: {value:.4g}</title></circle>"
        for value in row.values
    )
    x = at(row.middle)
    bar = f'<line class="line c1" x1="{x}" x2="{x}" y1="{y - 7}" y2="{y + 7}"/>'
    return f'<text x="4" y="{y + 4}">{escape(row.name)}</text>{bar}{dots}'
