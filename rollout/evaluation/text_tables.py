"""Tables and texts as Markdown. What a foreign text holds is shown, and makes no markup."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.logs import printable
from common.page import table

_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#~!])")


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first column names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        ruler = "| --- |" + " ---: |" * (len(self.header) - 1)
        return "\n".join((_line(self.header), ruler, *map(_line, self.rows)))

    def html(self) -> str:
        return table(self.header, self.rows)


def plain_markdown(text: str) -> str:
    """A text as one line of Markdown that shows it as it is."""
    line = printable(" ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", line).replace("&", "&amp;")


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters; dots stand for the rest."""
    return text if len(text) <= most else f"{text[:most]} ..."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(plain_markdown, cells))} |"
