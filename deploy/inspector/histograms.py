"""How many trajectories have which staleness and which length."""

from typing import Any

import numpy as np

from common.histograms import bins_of
from deploy.inspector.index import Index


def histograms(index: Index) -> dict[str, Any]:
    """The answer of `histograms`: steps of staleness, and response tokens."""
    is_valid = index.is_valid()
    return {
        "staleness": _bars(index.columns["staleness"][is_valid]),
        "length": _bars(index.columns["tokens"][is_valid]),
    }


def _bars(values: np.ndarray) -> list[dict[str, Any]]:
    """Bars from one value to another; of whole numbers both belong to the bar."""
    if not len(values):
        return []
    bins = bins_of(values)
    low, high = bins.edges[:-1], bins.edges[1:]
    if bins.is_whole:
        low, high = low + 0.5, high - 0.5
    bars = zip(low.tolist(), high.tolist(), bins.counts.tolist(), strict=True)
    return [{"from": begin, "to": end, "count": count} for begin, end, count in bars]
