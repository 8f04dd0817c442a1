"""A row for each variant: a dot for each run, a bar at the median. Inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from common.chart_axes import Axis, tick_label

_WIDTH, _ROW, _TOP, _BOTTOM, _RIGHT = 640, 22, 8, 26, 16  # of the drawing, in its own units
_LETTER = 6.2  # width of one, about


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
    values = [value for row in rows for value in row.values]
    axis = Axis.covering(min(values), max(values), left, _WIDTH - _RIGHT)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    lines = "".join(_tick(axis.at(tick), tick, height, is_share) for tick in axis.ticks)
    drawn = "".join(_row(row, _TOP + _ROW * (i + 0.5), axis) for i, row in enumerate(rows))
    return (
        f"<figure><figcaption><b>{escape(title)}</b></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{lines}{drawn}</svg></figure>"
    )


def _tick(x: float, value: float, height: float, is_share: bool) -> str:
    label = f"{100 * value:.4g}%" if is_share else tick_label(value)
    return (
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        f'<text x="{x}" y="{height - 8}" text-anchor="middle">{label}</text>'
    )


def _row(row: DotRow, y: float, axis: Axis) -> str:
    dots = "".join(
        f'<circle class="dot c0" cx="{axis.at(value)}" cy="{y}" r="3.2" opacity="0.65">'
        f"<title>{escape(row.name)}: {value:.4g}</title></circle>"
        for value in row.values
    )
    x = axis.at(row.middle)
    bar = f'<line class="line c1" x1="{x}" x2="{x}" y1="{y - 7}" y2="{y + 7}"/>'
    return f'<text x="4" y="{y + 4}">{escape(row.name)}</text>{bar}{dots}'
