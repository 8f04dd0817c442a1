"""Plain text that lines up."""

from collections.abc import Sequence

from deploy.showing.columns import aligned

GIB = 2**30


def table(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Indented lines of columns, numbers to the right.

    Args:
        left: so many columns go to the left instead.
    """
    return [f"  {line}" for line in aligned(rows, range(left, len(rows[0])))]


def seconds(value: float) -> str:
    if value < 10:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def duration(value: float) -> str:
    """Seconds, minutes or hours, for the length of a whole run."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def percent(share: float) -> str:
    return f"{round(100 * share)} %"  # no "-0"


def gib(value: float) -> str:
    return f"{value / GIB:.1f}" if value < 100 * GIB else f"{value / GIB:.0f}"


def million(count: float) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
