"""Intervals and tests of accuracies: one share, two shares of the same items, pairs of numbers.

Wilson's interval of a share, Newcombe's of the difference of two paired shares (his method 10),
McNemar's exact test of the items on which two runs differ, Student's interval of a mean of pairs.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev


def wilson(right: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        right: a number from 0 to `of`.
        of: items in all; with none the share can be anything.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: no such counts or confidence.

    Source: Wilson 1927; method 3 of Newcombe 1998, Statistics in Medicine 17, 857-872.
    """
    z = _normal_quantile(confidence)
    if not 0 <= right <= of:
        raise ValueError(f"{right} right of {of}: no count. Fix: give 0 <= right <= of")
    if of == 0:
        return 0.0, 1.0
    share, weight = right / of, z * z / of
    middle = share + weight / 2
    half = z * math.sqrt((share * (1 - share) + weight / 4) / of)
    low = 0.0 if right == 0 else (middle - half) / (1 + weight)
    high = 1.0 if right == of else (middle + half) / (1 + weight)
    return low, high


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test: are two runs equally often right on the same items?

    Args:
        only_a: items that the first run alone got right.
        only_b: those that the second alone got right.

    Returns:
        In (0, 1], but for 0.0 where it is too small for a float.

    Raises:
        ValueError: a count below 0.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"{only_a} and {only_b} items: no counts. Fix: give numbers from 0")
    differing = only_a + only_b
    ways = tail = 1  # ways to choose no item, then one, up to the smaller count
    for chosen in range(1, min(only_a, only_b) + 1):
        ways = ways * (differing - chosen + 1) // chosen
        tail += ways
    return min(1.0, 2 * tail / (1 << differing))


def gap_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float, float]:
    """Share of A minus share of B, of the same items, with Newcombe's interval of 95 %.

    Args:
        both: items that A and B got right; then those that one alone did, and those that none did.

    Returns:
        Difference, lower and upper end, each in [-1, 1]; of no items nothing is known: 0, -1, 1.

    Raises:
        ValueError: a count below 0.

    Source: method 10 of Newcombe 1998, Statistics in Medicine 17, 2635-2650.
    """
    of = both + only_a + only_b + neither
    if min(both, only_a, only_b, neither) < 0:
        raise ValueError("a count of items is below 0. Fix: give numbers from 0")
    if of == 0:
        return 0.0, -1.0, 1.0
    share_a, share_b = (both + only_a) / of, (both + only_b) / of
    low_a, high_a = wilson(both + only_a, of)
    low_b, high_b = wilson(both + only_b, of)
    phi = _phi(both, only_a, only_b, neither)
    below = _side_of_difference(share_a - low_a, high_b - share_b, phi)
    above = _side_of_difference(high_a - share_a, share_b - low_b, phi)
    difference = (only_a - only_b) / of
    return difference, max(-1.0, difference - below), min(1.0, difference + above)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a - b over pairs (seeds, for example), with Student's interval of 95 %.

    Returns:
        Mean, lower and upper end; of one pair the ends are infinite.

    Raises:
        ValueError: no pairs.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("no pairs. Fix: give at least one number on each side")
    mean, degrees = fmean(differences), len(differences) - 1
    if degrees == 0:
        return mean, -math.inf, math.inf
    error = stdev(differences) / math.sqrt(len(differences))
    half = student_quantile(0.95, degrees) * error
    return mean, mean - half, mean + half


def student_quantile(confidence: float, degrees: int) -> float:
    """t > 0 such that Student's variable lies in [-t, t] with this probability.

    Raises:
        ValueError: no such confidence, or no degree of freedom.
    """
    _check_confidence(confidence)
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom. Fix: give at least 1")
    low, high = 0.0, math.pi / 2  # bounds of the angle whose tangent is t / sqrt(degrees)
    while (angle := (low + high) / 2) not in (low, high):
        if _student_probability(angle, degrees) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan(angle)


def _student_probability(angle: float, degrees: int) -> float:
    """Probability that Student's variable is in [-t, t] (Abramowitz, Stegun: 26.7.3, 26.7.4)."""
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    is_odd = degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + is_odd, degrees, 2):
        term *= squared * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """How much the two agree beyond chance; a positive one is corrected for continuity."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(0.0, product - (both + only_a + only_b + neither) / 2)
    return product / math.sqrt(margins)


def _side_of_difference(of_a: float, of_b: float, phi: float) -> float:
    return math.sqrt(max(0.0, of_a**2 - 2 * phi * of_a * of_b + of_b**2))


def _normal_quantile(confidence: float) -> float:
    _check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: not between 0 and 1. Fix: 0.95, for example")
