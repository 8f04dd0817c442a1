"""common.histograms: every value is in a bin, every bar in the drawing, and the words are true.

Holds common/chart_axes.py.
"""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.histograms import bins_of, histogram, quantiles_in_words

WHOLE = arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 2**40))
REAL = arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1e6))


@given(st.one_of(WHOLE, REAL))
def test_every_value_is_in_one_bin_and_every_bar_in_the_drawing(values: np.ndarray) -> None:
    bins = bins_of(values)
    assert bins.counts.sum() == len(values) and len(bins.counts) <= 31
    assert (np.diff(bins.edges) > 0).all()
    bars = re.findall(
        r'class="bar" x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', drawn(values)
    )
    assert len(bars) == np.count_nonzero(bins.counts)
    for x, y, width, height in (map(float, bar) for bar in bars):
        assert x >= 52 and x + width <= 407 and y >= 14 and y + height <= 186.01


def drawn(values: np.ndarray) -> str:
    return histogram("Sides", "pixels", values)


def test_whole_numbers_have_bins_of_as_many_numbers_each() -> None:
    bins = bins_of(np.arange(100, 160))
    assert bins.edges[0] == 99.5 and set(bins.counts.tolist()) <= {0, 3}
    assert not bins.is_log


def test_a_wide_range_has_a_logarithmic_scale() -> None:
    values = np.array([0.0005, 0.01, 0.2])
    assert bins_of(values).is_log and not bins_of(np.array([0.0, 0.01, 0.2])).is_log
    page = histogram("Share", "of the picture", values, is_share=True)
    assert "of the picture, logarithmic" in page and ">0.1%<" in page and ">10%<" in page


def test_quantiles_are_values_that_are_there() -> None:
    assert quantiles_in_words(np.arange(1, 1001)) == "min 1, p50 500, p95 950, p99 990, max 1,000"
    assert quantiles_in_words(np.array([0.5]), is_share=True).startswith("min 50%, p50 50%")


def test_no_values_make_no_figure_and_titles_are_escaped() -> None:
    assert histogram("t", "u", np.array([])) == ""
    assert "<b>a &lt;b&gt;</b>" in histogram("a <b>", "u", np.array([1.0]))


@pytest.mark.parametrize("value", [0.0, 1.0, 12345.678])
def test_one_value_many_times_is_one_bar(value: float) -> None:
    assert drawn(np.full(9, value)).count('class="bar"') == 1
