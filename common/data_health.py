"""How much of the data set cannot be trained on, and when that ends the run. Pure.

The share is (rows refused when the file was read + different samples quarantined since) / all rows
of the file, whatever data.epochs is. One such row is always allowed unless the limit is 0, so that
a data set of five rows does not end with its first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Protocol

NUM_FIRST = 5  # reasons that are told
_NUM_IN_A_LINE = 3
_ROUNDING = 1e-9  # 0.29 * 100 is 28.999...


@dataclass(frozen=True)
class RefusedRow:
    """A row of the data set that was left out when the file was read."""

    row: int | None  # its number in the file, from 0
    sample_id: str | None
    reason: str

    def line(self) -> str:
        """One line for people."""
        return self.reason if self.row is None else f"row {self.row}: {self.reason}"


@dataclass(frozen=True)
class DataRows:
    """A data set as it was read, and how much of it may turn out to be of no use."""

    num_good: int
    refused: tuple[RefusedRow, ...] = ()
    max_refused_share: float = 1.0  # share of all rows: data.max_refused_share

    @property
    def total(self) -> int:
        return self.num_good + len(self.refused)

    @property
    def allowed(self) -> int:
        """Rows that may be refused or quarantined before that ends the run."""
        if self.max_refused_share == 0:
            return 0
        return max(1, floor(self.max_refused_share * self.total + _ROUNDING))


class _GivenUp(Protocol):
    def line(self) -> str:
        """One line for people."""


class GivenUpSamples(Protocol):
    """The samples that were given up since the file was read (`broker.ledger.quarantine`)."""

    @property
    def num_samples(self) -> int:
        """How many different samples."""

    @property
    def records(self) -> Sequence[_GivenUp]:
        """The records, in the order in which samples were given up."""


def data_fault(rows: DataRows, quarantine: GivenUpSamples | None = None) -> str | None:
    """Why the run must end; None means that it may go on."""
    num_quarantined = 0 if quarantine is None else quarantine.num_samples
    if len(rows.refused) + num_quarantined <= rows.allowed:
        return None
    what = [
        f"{number} {name}"
        for number, name in (
            (len(rows.refused), "refused when they were read"),
            (num_quarantined, "quarantined"),
        )
        if number
    ]
    return (
        f"of {rows.total} rows of data.train {' and '.join(what)}; data.max_refused_share = "
        f"{rows.max_refused_share:g} allows {rows.allowed}: "
        f"{shortened(first_lines(rows, quarantine))}. Fix: correct them, or raise "
        "data.max_refused_share (1: any number)"
    )


def nothing_trained(first: Sequence[str]) -> str:
    """Why a run that came to its end without one trained trajectory is no success."""
    why = f": {shortened(first)}" if first else ""
    return f"nothing was trained: no group came through{why}. Fix: see quarantine.jsonl and logs/"


def first_lines(rows: DataRows, quarantine: GivenUpSamples | None) -> tuple[str, ...]:
    """What was refused or quarantined first, for people."""
    lines = [row.line() for row in rows.refused[:NUM_FIRST]]
    if quarantine is not None:
        lines += [record.line() for record in quarantine.records[:NUM_FIRST]]
    return tuple(lines[:NUM_FIRST])


def shortened(lines: Sequence[str]) -> str:
    return "; ".join(lines[:_NUM_IN_A_LINE])
