"""common.statistics: published values, and what must hold of all counts."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.statistics import (
    gap_interval,
    mcnemar_exact,
    paired_difference,
    student_quantile,
    wilson,
)

COUNT = st.integers(0, 400)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(right: int, of: int, low: float, high: float) -> None:
    assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)


@given(COUNT, COUNT, st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_mirrors_it(right: int, wrong: int, confidence: float) -> None:
    low, high = wilson(right, right + wrong, confidence)
    assert 0 <= low <= (right / (right + wrong) if right + wrong else 0.5) <= high <= 1
    mirrored = wilson(wrong, right + wrong, confidence)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


def test_wilson_knows_nothing_of_no_items() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("right", "of"), [(-1, 3), (4, 3), (0, -1)])
def test_wilson_refuses_counts_that_are_none(right: int, of: int) -> None:
    with pytest.raises(ValueError, match="Fix: give 0 <= right <= of"):
        wilson(right, of)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_a_confidence_lies_between_0_and_1(confidence: float) -> None:
    for function in (lambda c: wilson(1, 2, c), lambda c: student_quantile(c, 3)):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            function(confidence)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (1, 7, 18 / 256),  # Bentur 2009 in Fagerland 2014: 0.070
        (0, 6, 2 / 64),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (10, 25, 0.016673848),  # binom.test(10, 35) of R, scipy.stats.binomtest
    ],
)
def test_mcnemar_is_the_binomial_test_of_what_differs(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p, rel=1e-7)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_over_all_splits_as_rare(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    splits = [math.comb(n, k) for k in range(n + 1)]
    expected = sum(ways for ways in splits if ways <= splits[only_a]) / 2**n
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-12, abs=0)


def test_mcnemar_of_a_whole_benchmark_is_neither_slow_nor_an_overflow() -> None:
    expected = 1.196391215e-25  # scipy.stats.binomtest(11000, 23609)
    assert mcnemar_exact(11_000, 12_609) == pytest.approx(expected, rel=1e-8, abs=0)
    assert mcnemar_exact(0, 5_000) == 0.0
    assert mcnemar_exact(0, 1_000) == 2.0**-999


def test_mcnemar_refuses_counts_that_are_none() -> None:
    with pytest.raises(ValueError, match="numbers from 0"):
        mcnemar_exact(-1, 2)


def test_gap_interval_is_as_published() -> None:
    # Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33, table: Newcombe square-and-add
    assert gap_interval(1, 1, 7, 12) == pytest.approx((-0.2857, -0.5069, -0.0256), abs=1e-4)


@given(COUNT, COUNT, COUNT, COUNT)
def test_gap_interval_holds_the_difference_and_mirrors_it(
    both: int, only_a: int, only_b: int, neither: int
) -> None:
    difference, low, high = gap_interval(both, only_a, only_b, neither)
    assert -1 <= low <= difference <= high <= 1
    swapped = gap_interval(both, only_b, only_a, neither)
    assert swapped == pytest.approx((-difference, -high, -low), abs=1e-9)


def test_gap_interval_is_narrower_where_the_runs_agree() -> None:
    agree, apart = gap_interval(450, 50, 20, 480), gap_interval(250, 250, 220, 280)
    assert agree[0] == apart[0] == 0.03
    assert agree[2] - agree[1] < 0.6 * (apart[2] - apart[1])


def test_gap_interval_knows_nothing_of_no_items() -> None:
    assert gap_interval(0, 0, 0, 0) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("confidence", "degrees", "t"),
    [  # tables of Student's distribution
        (0.95, 1, 12.7062),
        (0.95, 2, 4.30265),
        (0.95, 3, 3.18245),
        (0.95, 4, 2.77645),
        (0.95, 9, 2.26216),
        (0.99, 10, 3.16927),
        (0.90, 30, 1.69726),
        (0.95, 120, 1.97993),
        (0.95, 20_000, 1.96008),
    ],
)
def test_student_quantile_is_as_in_tables(confidence: float, degrees: int, t: float) -> None:
    assert student_quantile(confidence, degrees) == pytest.approx(t, abs=5e-5)


@given(st.floats(0.01, 0.999), st.integers(1, 40))
def test_student_quantile_grows_with_confidence_and_falls_with_degrees(
    confidence: float, degrees: int
) -> None:
    quantiles = [student_quantile(confidence, degrees + more) for more in range(3)]
    assert all(later < earlier for earlier, later in pairwise(quantiles))
    assert student_quantile(confidence / 2, degrees) < quantiles[0]


def test_student_quantile_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        student_quantile(0.95, 0)


def test_paired_difference_is_students() -> None:
    # the sleep data of Student 1908: t.test(group1, group2, paired = TRUE) in R
    a = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    b = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    expected = (-1.58, -2.4598858, -0.7001142)
    assert paired_difference(a, b) == pytest.approx(expected, abs=1e-7)


def test_paired_difference_of_one_pair_says_that_nothing_is_known() -> None:
    assert paired_difference([0.5], [0.25]) == (0.25, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([], [])
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])
