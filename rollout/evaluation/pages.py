"""RESULT/result.md and RESULT/result.html: the figures of a result, and its items."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import replace_text
from common.page import page, tile
from rollout.evaluation.item_cards import MOST_CARDS, STYLE, PagePictures, card, chooser
from rollout.evaluation.paper_table import REMARK, figure_text, paper_table
from rollout.evaluation.stored_result import (
    OUTCOMES,
    StoredFigure,
    StoredItem,
    StoredResult,
    StoredSet,
    read_result,
)
from rollout.evaluation.text_tables import TextTable, plain_markdown

MARKDOWN, HTML = "result.md", "result.html"
_INTERVALS = "Percent; in brackets the 95 % interval."


def write_pages(folder: Path) -> None:
    """Write both from result.json and the pictures beside it.

    Raises:
        ConfigError: there is no result.json that can be read.
        DataError: a page cannot be written.
    """
    result = read_result(folder)
    write(folder / MARKDOWN, result_markdown(result))
    write(folder / HTML, result_html(result, folder))


def write(path: Path, text: str) -> None:
    """A page, whole or not there. Raises DataError."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Fix: see to the disk") from error


def result_markdown(result: StoredResult) -> str:
    parts = [
        f"# {plain_markdown(result.model)}",
        plain_markdown(identity_text(result)),
        headlines(result).markdown(),
        _INTERVALS,
    ]
    for name, found in result.sets.items():
        parts += [f"## {plain_markdown(title_of(name, found))}", figures(found).markdown()]
        parts += [plain_markdown(source_text(result, name))]
    parts += paper_markdown([("this result", result)])
    return "\n\n".join(parts) + "\n"


def result_html(result: StoredResult, folder: Path) -> str:
    """The page of a result.

    Args:
        folder: paths of pictures are relative to it.
    """
    pictures = PagePictures(folder)
    tiles = "".join(_tile(name, found) for name, found in result.sets.items())
    sections = "".join(_section(result, name, pictures) for name in result.sets)
    body = (
        f"<p>{escape(identity_text(result))}</p><section class='tiles'>{tiles}</section>"
        f"{headlines(result).html()}<p>{_INTERVALS}</p>"
        f"{paper_html([('this result', result)])}{chooser((*OUTCOMES, 'cut'))}{sections}"
    )
    return page(result.model, body, STYLE)


def title_of(name: str, found: StoredSet) -> str:
    return found.title or name


def headlines(result: StoredResult) -> TextTable:
    """A line for each set: the figure that counts, and the replies that are told apart."""
    header = ("set", "figure", "value", "items", "failed", "cut", "undecided")
    rows = tuple(_headline(name, found) for name, found in result.sets.items())
    return TextTable(header, rows)


def figures(found: StoredSet) -> TextTable:
    rows = tuple((name, figure_text(f), _of(f)) for name, f in found.figures.items())
    return TextTable(("figure", "value", "right of"), rows)


def identity_text(result: StoredResult) -> str:
    """How it was measured, in one line."""
    told = ", ".join(
        f"{key} {_value(value)}" for key, value in result.identity.items() if key != "sets"
    )
    when = f"started {result.started}; " if result.started else ""
    return f"{when}{told}"


def source_text(result: StoredResult, name: str) -> str:
    """Which data set and how much of it, in one line."""
    return ", ".join(
        f"{k} {_value(v)}" for k, v in result.identity.get("sets", {}).get(name, {}).items()
    )


def paper_markdown(results: Sequence[tuple[str, StoredResult]]) -> list[str]:
    """The paragraphs beside the paper; empty where the paper has no set of ours."""
    found = paper_table(results)
    if found is None:
        return []
    lines = [f"- {plain_markdown(line)}" for line in found.unlike]
    unlike = ["Measured otherwise than the paper's figures:\n\n" + "\n".join(lines)]
    table = TextTable(found.header, found.rows).markdown()
    return ["## Beside the paper", table, REMARK, *(unlike if lines else [])]


def paper_html(results: Sequence[tuple[str, StoredResult]]) -> str:
    """The table beside the paper, and one of all the paper's models, folded away."""
    found, whole = paper_table(results), paper_table(results, is_whole=True)
    if found is None or whole is None:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.unlike)
    unlike = f"<p>Measured otherwise than the paper's figures:</p><ul>{lines}</ul>"
    return (
        f"<h2>Beside the paper</h2>{TextTable(found.header, found.rows).html()}<p>{REMARK}</p>"
        f"{unlike if lines else ''}<details><summary>All of the paper's models</summary>"
        f"{TextTable(whole.header, whole.rows).html()}</details>"
    )


def _headline(name: str, found: StoredSet) -> tuple[str, ...]:
    figure = found.headline_figure
    value = "-" if figure is None else figure_text(figure)
    counts = (len(found.items), found.failed, found.cut, found.undecided)
    return (title_of(name, found), found.headline, value, *(f"{count:,}" for count in counts))


def _tile(name: str, found: StoredSet) -> str:
    figure = found.headline_figure
    value = "-" if figure is None else f"{100 * figure.value:.2f} %"
    return tile(title_of(name, found), value, found.headline)


def _of(figure: StoredFigure) -> str:
    return "" if figure.of is None else f"{figure.right:,} of {figure.of:,}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_value(found)}" for key, found in value.items()) + ")"
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _section(result: StoredResult, name: str, pictures: PagePictures) -> str:
    found = result.sets[name]
    chosen = list(_chosen(found))
    cards = "".join(card(_kinds(item), {"reply": item}, pictures) for item in chosen)
    note = f"{len(chosen):,} of {len(found.items):,} items; result.json has all of them."
    return (
        f"<h2>{escape(title_of(name, found))}</h2>{figures(found).html()}"
        f"<p>{escape(source_text(result, name))}</p><p>{note}</p>"
        f"<section class='scenes'>{cards}</section>"
    )


def _chosen(found: StoredSet) -> Iterator[StoredItem]:
    """The first items of each outcome, those first that ask for a look."""
    for outcome in ("failed", "undecided", "wrong", "right"):
        yield from [i for i in found.items if i.outcome == outcome][:MOST_CARDS]


def _kinds(item: StoredItem) -> str:
    return f"{item.outcome} is-cut" if item.cut else item.outcome
