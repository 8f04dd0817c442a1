"""The whole picture: a frame with the run's name, a view's blocks, and the keys that there are.

Narrow, the blocks are one below the other; from `WIDE` columns on there are two columns of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.showing.live import learner, logs, overview, queue, servers
from deploy.showing.live.facts import Facts
from deploy.showing.live.text import elided, wrapped
from deploy.showing.picture import clock
from deploy.showing.situation import DRAINING

Block = Callable[[Facts, int, int], list[Text]]  # of columns and rows that it may have
WIDE = 120
_FRAME_COLUMNS, _FRAME_ROWS, _GAP = 4, 2, 3
_ENOUGH_ROWS = 60  # in a file or a pipe, where there is no terminal to fill


@dataclass(frozen=True)
class Blocks:
    """A view: its key's word, and what it shows to the left (or above) and to the right."""

    name: str
    left: tuple[Block, ...]
    right: tuple[Block, ...]
    extra: tuple[Block, ...] = ()  # below those to the right, where there are two columns


VIEWS = {
    "1": Blocks("overview", overview.LEFT, overview.RIGHT, learner.RIGHT),
    "2": Blocks("servers", servers.LEFT, servers.RIGHT),
    "3": Blocks("queue", queue.LEFT, queue.RIGHT),
    "4": Blocks("learner", learner.LEFT, learner.RIGHT),
    "5": Blocks("logs", logs.LEFT, logs.RIGHT),
}
_HELP = (
    ("1 overview", "how far the run is, what limits it, what it waits for, what it learns"),
    ("2 servers", "rollout servers, processes, restarts and why"),
    ("3 queue", "where samples are: in flight (with a server or the learner), waiting (for the "
     "learner), trained, expired (made again), quarantined (cannot be used); and their staleness"),
    ("4 learner", "the seconds of a step by part, and the curves of the last steps"),
    ("5 logs", "the last warnings and errors; python -m deploy.logs RUN has everything"),
    ("?", "this page, and back"),
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """What a person can press, and what is shown because of it."""

    view: str = "1"  # a key of VIEWS
    is_help: bool = False
    has_views: bool = True  # whether keys are read at all
    ending: str = "q quit"  # how to leave; empty: it is left by itself

    def pressed(self, key: str) -> "Keys":
        """What is shown after a key."""
        if key == "?":
            return Keys(self.view, not self.is_help, self.has_views, self.ending)
        view = key if key in VIEWS else self.view
        return Keys(view, False, self.has_views, self.ending)


def picture(facts: Facts, keys: Keys, width: int, height: int | None = None) -> Panel:
    """A view as it is drawn.

    Args:
        width: columns.
        height: rows at most; None: as many as there is to say, within reason.
    """
    columns = max(20, width - _FRAME_COLUMNS)
    told = facts.mark.splitlines()
    head = [line for part in told for line in wrapped(part, columns, "bold yellow")]
    rows = max(3, (height or _ENOUGH_ROWS) - _FRAME_ROWS - len(head))
    body = _help(columns) if keys.is_help else _body(VIEWS[keys.view], facts, columns, rows)
    return Panel(
        Group(*head, body),
        title=Text(_title(facts, columns)),
        subtitle=_footer(keys, facts, columns),
        width=width,
        padding=(0, 1),
    )


def _body(view: Blocks, facts: Facts, columns: int, rows: int) -> RenderableType:
    if columns < WIDE - _FRAME_COLUMNS or not view.right:
        return _stack((*view.left, *view.right), facts, columns, rows)
    half = (columns - _GAP) // 2
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in range(2):
        grid.add_column(width=half, no_wrap=True)
    grid.add_row(
        _stack(view.left, facts, half, rows), _stack((*view.right, *view.extra), facts, half, rows)
    )
    return grid


def _stack(blocks: Sequence[Block], facts: Facts, columns: int, rows: int) -> RenderableType:
    """Blocks one below the other, a free line between them while there is room for it."""
    least = [block(facts, columns, 1) for block in blocks]  # what they cannot do without
    spare = rows - sum(map(len, least))
    has_gaps = spare >= len(blocks)
    spare -= len(blocks) - 1 if has_gaps else 0
    lines: list[Text] = []
    for block, short in zip(blocks, least, strict=True):
        drawn = block(facts, columns, len(short) + max(0, spare))
        spare -= len(drawn) - len(short)
        if lines and drawn and has_gaps:
            lines.append(Text())
        lines += drawn
    for line in lines:
        line.no_wrap = True
    return Group(*lines[:rows])


def _title(facts: Facts, columns: int) -> str:
    left_s = facts.learner.get("eta_s", 0.0)
    left = f", {clock(left_s)} left" if left_s > 0 and DRAINING not in facts.waits else ""
    if facts.mark:
        left = ""
    end = f" - {facts.phase} - {clock(facts.seconds)}{left}"
    return elided(facts.run_name or "starting", max(8, columns - len(end) - 4)) + end


def _footer(keys: Keys, facts: Facts, columns: int) -> Text | None:
    """The keys: as many words as there is room for."""
    ending = "" if DRAINING in facts.waits and not keys.ending.startswith("q") else keys.ending
    short = {key: view.name for key, view in VIEWS.items()}
    for gap, help_word, last in (
        ("  ", "? help", ending),
        (" ", "?", ending),
        (" ", "?", ending.split(" ")[0]),
        (" ", "?", ""),
    ):
        words = [f"{key} {name}" for key, name in short.items()] + [help_word]
        words = [*(words if keys.has_views else []), *([last] if last else [])]
        if sum(map(len, words)) + len(gap) * len(words) <= columns - 2:
            break
    footer = Text()
    for number, word in enumerate(words):
        footer.append(gap if number else "")
        is_shown = word.startswith(keys.view) and keys.has_views and not keys.is_help
        footer.append(word, "reverse" if is_shown else "")
    return footer if words else None


def _help(columns: int) -> RenderableType:
    lines: list[Text] = []
    for key, meaning in _HELP:
        lines += [Text(key, "bold"), *wrapped(meaning, columns)]
    return Group(*lines)
