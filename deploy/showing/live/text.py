"""Lines of text that fit a width: names give way in their middle, figures are never cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from common.logs import printable

_GAP = 2  # columns between two cells
_BARS = [chr(0x2581 + height) for height in range(8)]  # from an eighth of a line to all of it
_MARK = ".."  # in place of the middle of a name
_SHORTEST_NAME = 12
_RULER = Console(quiet=True)  # it measures only
DIM, WARNING = "dim", "yellow"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_name: bool = False  # to the left, and elided where there is no room; others are figures
    rank: int = 0  # the highest is left out first where there is no room; 0 never is


def elided(name: str, width: int) -> str:
    """Foreign text on one line of at most `width` columns; its beginning and end are kept."""
    name = printable(name)
    if cell_len(name) <= width:
        return name
    kept = max(0, width - len(_MARK))
    tail = kept // 2
    end = name[len(name) - tail :] if tail else ""
    return set_cell_size(name, max(0, width - len(_MARK) - cell_len(end))) + _MARK + end


def wrapped(text: str, width: int, style: str = "") -> list[Text]:
    """Foreign text on as many lines as it needs; none for an empty one."""
    whole = Text(printable(text), style)
    return [line for line in whole.wrap(_RULER, max(8, width), overflow="fold") if line.plain]


def cells(pairs: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Titles with their figures below, in as many bands as needed."""
    lines: list[Text] = []
    for band in _even_bands(pairs, width):
        sizes = [max(map(cell_len, pair)) for pair in band]
        for part, style in ((0, DIM), (1, "")):
            row = (pair[part].rjust(size) for pair, size in zip(band, sizes, strict=True))
            lines.append(Text((" " * _GAP).join(row), style))
    return lines


def _even_bands(pairs: Sequence[tuple[str, str]], width: int) -> list[list[tuple[str, str]]]:
    """The fewest bands that fit the width, none much longer than the others."""
    bands = list(_bands(pairs, width))
    for narrower in range(width, 0, -1):
        tried = list(_bands(pairs, narrower))
        if len(tried) > len(bands):
            break
        bands = tried
    return bands


def _bands(pairs: Sequence[tuple[str, str]], width: int) -> Iterator[list[tuple[str, str]]]:
    band: list[tuple[str, str]] = []
    used = -_GAP
    for pair in pairs:
        size = max(map(cell_len, pair)) + _GAP
        if band and used + size > width:
            yield band
            band, used = [], -_GAP
        band.append(pair)
        used += size
    if band:
        yield band


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[Text]:
    """A title line and a line a row. Names are elided, then columns of a rank left out."""
    rows = [
        [printable(cell) if c.is_name else cell for c, cell in zip(columns, row, strict=True)]
        for row in rows
    ]
    keep = list(range(len(columns)))
    sizes = [max(cell_len(c.title), *(cell_len(r[i]) for r in rows), 0)
             for i, c in enumerate(columns)]  # fmt: skip
    least = [min(s, _SHORTEST_NAME) if c.is_name else s
             for c, s in zip(columns, sizes, strict=True)]  # fmt: skip
    while sum(least[i] + _GAP for i in keep) - _GAP > width:
        last = max(keep, key=lambda i: columns[i].rank)
        if columns[last].rank == 0:
            break
        keep.remove(last)
    spare = width + _GAP - sum(least[i] + _GAP for i in keep)
    for i in keep:
        wish = min(sizes[i] - least[i], max(0, spare))
        sizes[i], spare = least[i] + wish, spare - wish
    titles = [column.title for column in columns]
    lines = [_row(columns, keep, sizes, titles, DIM)]
    return lines + [_row(columns, keep, sizes, row, "") for row in rows]


def _row(
    columns: Sequence[Column], keep: Sequence[int], sizes: Sequence[int], row: Sequence[str],
    style: str,
) -> Text:  # fmt: skip
    shown = (
        set_cell_size(elided(row[i], sizes[i]), sizes[i])
        if columns[i].is_name
        else row[i].rjust(sizes[i])
        for i in keep
    )
    return Text((" " * _GAP).join(shown).rstrip(), style)


def curve(values: Sequence[float], width: int) -> str:
    """The last values as a row of bars, from the lowest to the highest of them.

    More values than columns are taken together by their means.
    """
    if not values or width <= 0:
        return ""
    count = min(width, len(values))
    edges = [len(values) * k // count for k in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    is_flat = high - low <= 1e-9 * max(abs(low), abs(high))  # but for rounding
    span = 1.0 if is_flat else high - low
    return "".join(_BARS[min(7, int(8 * (value - low) / span))] for value in means)


def bar(share: float, width: int) -> str:
    """A bar that fills a share of a width."""
    return chr(0x2588) * round(max(0.0, min(1.0, share)) * width)
