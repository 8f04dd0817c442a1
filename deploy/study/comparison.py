"""What the runs of a study come to: a spread a variant, pairs of equal seeds with a baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from common.statistics import paired_difference
from deploy.study.columns import Figures

Done = Mapping[tuple[str, int], Figures]  # by variant and seed


@dataclass(frozen=True)
class Spread:
    values: tuple[float, ...]  # by seed; at least one

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    def as_json(self) -> dict[str, Any]:
        return {
            "values": list(self.values),
            "mean": fmean(self.values),
            "median": self.median,
            "min": self.lowest,
            "max": self.highest,
        }


@dataclass(frozen=True)
class Difference:
    """From the baseline, over seeds that both have run with; Student's interval, 95 %."""

    pairs: int
    mean: float
    low: float  # infinite of one pair
    high: float

    @property
    def is_beyond_noise(self) -> bool:
        return self.low > 0 or self.high < 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"low": _finite(self.low), "high": _finite(self.high)}


@dataclass(frozen=True)
class Outcome:
    """What the runs of one variant come to."""

    variant: str
    baseline: str
    seeds: tuple[int, ...]  # that it has run with to the end
    spreads: Mapping[str, Spread]  # by column, of those that its runs have
    differences: Mapping[str, Difference]  # empty of a baseline itself


def outcomes(done: Done, baseline_of: Mapping[str, str], columns: Sequence[str]) -> list[Outcome]:
    """The outcomes of the variants with a run that is done, in the order of `baseline_of`."""
    found = []
    for variant, baseline in baseline_of.items():
        seeds = tuple(sorted(seed for name, seed in done if name == variant))
        if seeds:
            spreads = {c: Spread(values) for c in columns if (values := _told(done, variant, c))}
            differences = (
                {} if variant == baseline else _differences(done, variant, baseline, columns)
            )
            found.append(Outcome(variant, baseline, seeds, spreads, differences))
    return found


def _told(done: Done, variant: str, column: str) -> tuple[float, ...]:
    told = (figures.get(column) for (name, _), figures in sorted(done.items()) if name == variant)
    return tuple(value for value in told if value is not None)


def _differences(
    done: Done, variant: str, baseline: str, columns: Sequence[str]
) -> dict[str, Difference]:
    found = {}
    for column in columns:
        pairs = [
            (value, other)
            for (name, seed), figures in sorted(done.items())
            if name == variant
            and (value := figures.get(column)) is not None
            and (other := done.get((baseline, seed), {}).get(column)) is not None
        ]
        if pairs:
            mean, low, high = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
            found[column] = Difference(len(pairs), mean, low, high)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
