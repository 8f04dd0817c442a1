"""Rows of text that line up."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], to_the_right: Container[int] = ()) -> list[str]:
    """A line a row, two spaces between columns, none at the end.

    Args:
        to_the_right: numbers of the columns whose cells end at the same place.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in to_the_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
