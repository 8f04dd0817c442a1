"""The tables of a study, as cells and as Markdown that lines up in a terminal, too."""

import math
from collections.abc import Callable, Mapping, Sequence

from deploy.study.columns import COLUMNS, Column, Figures
from deploy.study.comparison import Difference, Outcome, Spread

Rows = list[list[str]]  # the first is the head
_NOTHING = "-"
SPREAD_NOTE = "Median over seeds (lowest to highest)."
PAIRS_NOTE = (
    "Mean of the differences between runs with one seed (95 % interval by Student; * where it "
    "leaves out 0: of 20 comparisons of equals one does); of shares in points. One pair has no "
    "interval."
)


def spread_rows(found: Sequence[Outcome], columns: Sequence[str]) -> Rows:
    told = [c for c in columns if any(c in outcome.spreads for outcome in found)]
    head = ["variant", "runs", *(COLUMNS[c].title for c in told)]
    return [
        head,
        *(
            [o.variant, str(len(o.seeds)), *(_spread(COLUMNS[c], o.spreads.get(c)) for c in told)]
            for o in found
        ),
    ]


def difference_rows(found: Sequence[Outcome], columns: Sequence[str]) -> Rows:
    """The head alone where nothing can be compared."""
    told = [c for c in columns if any(c in outcome.differences for outcome in found)]
    head = ["variant", "against", "pairs", *(COLUMNS[c].title for c in told)]
    return [head, *(_difference_row(o, told) for o in found if o.differences)]


def _difference_row(outcome: Outcome, columns: Sequence[str]) -> list[str]:
    pairs = max(difference.pairs for difference in outcome.differences.values())
    cells = (_difference(COLUMNS[c], outcome.differences.get(c)) for c in columns)
    return [outcome.variant, outcome.baseline, str(pairs), *cells]


def run_row(name: str, figures: Figures, columns: Sequence[str]) -> list[str]:
    cells = ((COLUMNS[c], figures.get(c)) for c in columns)
    return [name, *(_NOTHING if value is None else c.text(value) for c, value in cells)]


def run_rows(figures: Mapping[str, Figures], columns: Sequence[str]) -> Rows:
    """One run a row, by its name."""
    head = ["run", *(COLUMNS[c].title for c in columns)]
    return [head, *(run_row(name, told, columns) for name, told in figures.items())]


def markdown(rows: Rows) -> str:
    """A table whose first column goes to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "|".join([f"{'-' * (widths[0] + 2)}", *(f"{'-' * (w + 1)}:" for w in widths[1:])])
    lines = [
        " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def progress_lines(columns: Sequence[str], names: Sequence[str]) -> Callable[[list[str]], str]:
    """Writes the head and the rows of `run_rows` one by one, so that they line up."""
    first = max(map(len, names))
    widths = [max(9, len(COLUMNS[c].title)) for c in columns]

    def line(row: list[str]) -> str:
        return "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)])

    return line


def _spread(column: Column, spread: Spread | None) -> str:
    if spread is None:
        return _NOTHING
    if len(spread.values) == 1:
        return column.text(spread.median)
    low, high = column.text(spread.lowest), column.text(spread.highest)
    return f"{column.text(spread.median)} ({low.removesuffix(' %')} to {high})"


def _difference(column: Column, difference: Difference | None) -> str:
    if difference is None:
        return _NOTHING
    mean = column.difference(difference.mean)
    if not math.isfinite(difference.low):
        return mean
    star = "*" if difference.is_beyond_noise else ""
    low, high = column.difference(difference.low), column.difference(difference.high)
    return f"{mean}{star} ({low} to {high})"
