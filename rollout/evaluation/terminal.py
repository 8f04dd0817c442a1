"""A result in a few lines, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.evaluation.paper_table import REMARK, paper_table
from rollout.evaluation.stored_result import StoredResult


def told(document: Mapping[str, Any]) -> str:
    """The headline of each set, and what is not in it."""
    header = ("set", "accuracy", "95 %", "answered", "failed", "cut", "undecided")
    return aligned([header, *(_row(name, one) for name, one in document["sets"].items())])


def beside_the_paper(result: StoredResult) -> str | None:
    """The paper's base models and Vision-OPD, and this one; None if it has no set of these."""
    table = paper_table([("this result", result)])
    if table is None:
        return None
    unlike = [f"measured otherwise than the paper: {line}" for line in table.unlike]
    return "\n".join([aligned([table.header, *table.rows]), *unlike, REMARK])


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """A table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]))
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    figure = one["figures"].get(one["headline"], {})
    ends = f"{percent(figure.get('low'))} to {percent(figure.get('high'))}"
    counts = (str(one[key]) for key in ("answered", "failed", "cut", "undecided"))
    return name, percent(figure.get("value")), ends, *counts
