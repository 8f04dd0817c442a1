"""From verdicts to figures: shares with Wilson's interval, and means of shares.

An undecided reply is not right. A mean of shares has the interval that the squares of its parts'
distances give (MOVER: Zou and Donner 2008, Statistics in Medicine 27, 1693-1702), which takes the
parts for independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.statistics import wilson
from rollout.evaluation.verdicts import ReplyVerdict


@dataclass(frozen=True)
class Figure:
    """A number of a result, in 0..1."""

    value: float  # 0 of nothing: then low is 0 and high is 1
    right: int | None = None  # None means no share of items
    of: int | None = None
    low: float | None = None  # 95 %; None means no interval is known
    high: float | None = None


@dataclass(frozen=True)
class Scored:
    """What is left of an item once its reply is judged."""

    answer: str
    fields: Mapping[str, str]
    verdict: ReplyVerdict


def share(right: int, of: int) -> Figure:
    low, high = wilson(right, of)
    return Figure(right / of if of else 0.0, right, of, low, high)


def accuracy(scored: Sequence[Scored]) -> Figure:
    return share(sum(one.verdict.outcome == "right" for one in scored), len(scored))


def accuracy_alone(scored: Sequence[Scored]) -> dict[str, Figure]:
    return {"accuracy": accuracy(scored)}


def accuracy_by(scored: Sequence[Scored], *fields: str) -> dict[str, Figure]:
    """Accuracy of all, and of the items with each value of each field: "category = single"."""
    figures = accuracy_alone(scored)
    for field in fields:
        for value, part in parts(scored, field).items():
            figures[f"{field} = {value}"] = accuracy(part)
    return figures


def parts(scored: Sequence[Scored], field: str) -> dict[str, list[Scored]]:
    """Items by the value of a field, in the order of the values; those without it are left out."""
    found: dict[str, list[Scored]] = {}
    for one in scored:
        if (value := one.fields.get(field)) is not None:
            found.setdefault(value, []).append(one)
    return dict(sorted(found.items()))


def mean(figures: Sequence[Figure]) -> Figure:
    """The mean of parts, each with equal weight; without parts nothing is known."""
    if not figures:
        return share(0, 0)
    value = math.fsum(figure.value for figure in figures) / len(figures)
    below = math.hypot(*(figure.value - (figure.low or 0.0) for figure in figures)) / len(figures)
    above = math.hypot(*(_high(figure) - figure.value for figure in figures)) / len(figures)
    return Figure(value, low=max(0.0, value - below), high=min(1.0, value + above))


def _high(figure: Figure) -> float:
    return 1.0 if figure.high is None else figure.high
