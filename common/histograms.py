"""Histograms as inline SVG: how many rows have which value, and the usual quantiles in words."""

import math
from dataclasses import dataclass

import numpy as np

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
    round_step,
    rules_across,
    tick_label,
)

_NUM_BINS = 28
_WIDE = 50  # largest over smallest value: from here on the scale is logarithmic
_QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class Bins:
    """How many values lie between which edges."""

    edges: np.ndarray  # float64 [B + 1], ascending
    counts: np.ndarray  # int64 [B]
    is_log: bool
    is_whole: bool  # values are whole numbers, and edges lie half-way between two


def histogram(title: str, unit: str, values: np.ndarray, is_share: bool = False) -> str:
    """A figure; nothing where there are no values.

    Args:
        unit: the values' unit, in words.
        values: [N], finite.
        is_share: values are in [0, 1] and shown as percentages.
    """
    if not len(values):
        return ""
    bins = bins_of(values)
    low, high = _placed(bins.edges[[0, -1]], bins.is_log)
    across = Axis(low, high, LEFT, WIDTH - RIGHT, ())
    up = Axis.covering(0, int(bins.counts.max()), HEIGHT - BOTTOM, TOP, least_step=1)
    words = quantiles_in_words(values, is_share)
    scale = ", logarithmic" if bins.is_log else ""
    drawing = rules_across(up) + _bars(bins, across, up, is_share) + _marks(bins, across, is_share)
    foot = f"<small>{words}</small>"
    drawing += name_below(f"{unit}{scale}")
    return figure(title, f"{len(values):,} rows", drawing, foot, f"{title}: {words}")


def bins_of(values: np.ndarray) -> Bins:
    """At most 30 or so bins, of equal width on the scale that shows the values best."""
    low, high, is_whole = float(values.min()), float(values.max()), values.dtype.kind in "iu"
    is_narrow = high - low < 1e-9 * max(1.0, abs(high))  # one value, but for rounding
    is_log = not is_narrow and low > 0 and high > _WIDE * low
    if is_log:
        edges = np.geomspace(low, high, _NUM_BINS + 1)
        edges[0], edges[-1] = low, high  # rounding must not lose the outer values
    elif is_whole or is_narrow:  # whole numbers: as many in each bin
        step = max(1, math.ceil((high - low + 1) / _NUM_BINS))
        edges = np.arange(low, high + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high, _NUM_BINS + 1)
    counts, _ = np.histogram(values, edges)
    return Bins(edges, counts, is_log, is_whole and not is_log)


def quantiles_in_words(values: np.ndarray, is_share: bool = False) -> str:
    """The smallest value, the median, p95, p99 and the largest."""
    found = np.percentile(values, _QUANTILES, method="lower")
    parts = [("min", values.min())]
    parts += [(f"p{q}", value) for q, value in zip(_QUANTILES, found, strict=True)]
    parts += [("max", values.max())]
    return ", ".join(f"{name} {_shown(float(value), is_share)}" for name, value in parts)


def _bars(bins: Bins, across: Axis, up: Axis, is_share: bool) -> str:
    bars = []
    places = [across.at(x) for x in _placed(bins.edges, bins.is_log)]
    for number, count in enumerate(bins.counts.tolist()):
        if not count:
            continue
        start, end, top = places[number], places[number + 1], up.at(count)
        low, high = bins.edges[number : number + 2].tolist()
        if bins.is_whole:
            low, high = low + 0.5, high - 0.5
        bars.append(
            f'<rect class="bar" x="{start}" y="{top}" width="{max(0.5, end - start - 1):.2f}" '
            f'height="{HEIGHT - BOTTOM - top:.2f}"><title>'
            f"{_shown(low, is_share)} to {_shown(high, is_share)}: {count:,}</title></rect>"
        )
    return "".join(bars)


def _marks(bins: Bins, across: Axis, is_share: bool) -> str:
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    ticks = _log_ticks(low, high) if bins.is_log else _ticks(low, high, int(bins.is_whole))
    places = [across.at(x) for x in _placed(np.array(ticks), bins.is_log)]
    shown = zip(places, ticks, strict=True)
    return "".join(mark_below(place, _shown(tick, is_share)) for place, tick in shown)


def _ticks(low: float, high: float, least_step: int) -> list[float]:
    """Round numbers between two."""
    step = max(least_step, round_step((high - low) / 4))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 3 times each where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 3) if math.log10(high / low) < 4 else (1,)
    return [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]


def _placed(values: np.ndarray, is_log: bool) -> list[float]:
    placed: list[float] = (np.log10(values) if is_log else values.astype(np.float64)).tolist()
    return placed


def _shown(value: float, is_share: bool) -> str:
    if is_share:
        return f"{100 * value:.3g}%"
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else tick_label(value)
