"""OUT/compare.json, .md and .html: two results side by side, and the items that changed."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.page import page, tile
from rollout.evaluation.compare import Counts, Pair, ResultComparison, SetComparison
from rollout.evaluation.item_cards import MOST_CARDS, STYLE, PagePictures, card, chooser
from rollout.evaluation.pages import paper_html, paper_markdown, title_of, write
from rollout.evaluation.stored_result import OUTCOMES
from rollout.evaluation.text_tables import TextTable, plain_markdown, shortened

JSON, MARKDOWN, HTML = "compare.json", "compare.md", "compare.html"
_LISTED = 40  # changed items of a set in Markdown
_CELL = 120  # characters of a text there
_WORDS = (
    "Percent of the items that both answered; B minus A with its 95 % interval (Newcombe, paired); "
    "p of McNemar's exact test, two-sided, for each line by itself. Items count as independent, "
    "which those of HR-Bench (each question in four orders) are not."
)


def write_comparison(found: ResultComparison, out: Path, a: Path, b: Path) -> None:
    """Write all three files.

    Args:
        out: folder; made if it is not there.
        a: folder of the first result, with its pictures.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: {error.strerror}. Fix: name another folder") from error
    write(out / JSON, json.dumps(comparison_document(found), indent=1) + "\n")
    write(out / MARKDOWN, comparison_markdown(found))
    write(out / HTML, comparison_html(found, PagePictures(a, b)))


def comparison_document(found: ResultComparison) -> dict[str, Any]:
    return {
        "format": 1,
        "a": found.a.model,
        "b": found.b.model,
        "despite": [difference._asdict() for difference in found.despite],
        "left_out": list(found.left_out),
        "sets": {name: _set_document(one) for name, one in found.sets.items()},
    }


def comparison_markdown(found: ResultComparison) -> str:
    parts = [f"# {plain_markdown(_title(found))}", *map(plain_markdown, _notes(found)), _WORDS]
    for one in found.sets.values():
        parts += [f"## {_heading(one)}", _table(one).markdown()]
        parts += [plain_markdown(note) for note in _set_notes(one)]
        parts += ["Items by outcome:", _moves(one).markdown()]
        parts += _changed_markdown(one)
    return "\n\n".join((*parts, *paper_markdown(_labelled(found)))) + "\n"


def comparison_html(found: ResultComparison, pictures: PagePictures) -> str:
    tiles = "".join(_tile(one) for one in found.sets.values())
    notes = "".join(f"<p>{escape(note)}</p>" for note in (*_notes(found), _WORDS))
    sections = "".join(_section(one, pictures) for one in found.sets.values())
    body = (
        f"{notes}<section class='tiles'>{tiles}</section>{paper_html(_labelled(found))}"
        f"{chooser(('gained', 'lost'))}{sections}"
    )
    return page(_title(found), body, STYLE)


def _title(found: ResultComparison) -> str:
    return f"{found.a.model} (A) and {found.b.model} (B)"


def _labelled(found: ResultComparison) -> list[tuple[str, Any]]:
    return [(f"A: {found.a.model}", found.a), (f"B: {found.b.model}", found.b)]


def _notes(found: ResultComparison) -> Iterator[str]:
    for difference in found.despite:
        yield f"Compared although {difference}."
    if found.left_out:
        yield f"In one of both alone, and left out: {', '.join(found.left_out)}."


def _heading(one: SetComparison) -> str:
    return plain_markdown(title_of(one.name, one.a))


def _table(one: SetComparison) -> TextTable:
    header = ("items", "of", "A", "B", "B minus A", "gained", "lost", "p")
    rows = [("all", one.whole), *one.parts.items()]
    return TextTable(header, tuple((name, *_cells(counts)) for name, counts in rows))


def _cells(counts: Counts) -> tuple[str, ...]:
    return (
        f"{counts.of:,}",
        _percent(counts.right_a, counts.of),
        _percent(counts.right_b, counts.of),
        _difference(counts),
        f"{counts.only_b:,}",
        f"{counts.only_a:,}",
        f"{counts.p:.3g}",
    )


def _difference(counts: Counts) -> str:
    value, low, high = counts.difference
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _percent(right: int, of: int) -> str:
    return f"{100 * right / of:.2f}" if of else "-"


def _moves(one: SetComparison) -> TextTable:
    """Items by their outcome in A (lines) and in B (columns)."""
    header = ("A \\ B", *OUTCOMES)
    rows = ((was, *(f"{one.moves.get((was, now), 0):,}" for now in OUTCOMES)) for was in OUTCOMES)
    return TextTable(header, tuple(rows))


def _set_notes(one: SetComparison) -> Iterator[str]:
    failed = sum(count for outcomes, count in one.moves.items() if "failed" in outcomes)
    if failed:
        yield f"Failed in A or in B, and left out: {failed:,}."
    if one.only_in_a or one.only_in_b:
        yield f"In A alone, and left out: {one.only_in_a:,}; in B alone: {one.only_in_b:,}."
    if one.a.cut or one.b.cut:
        yield f"Cut at the length limit: {one.a.cut:,} replies in A, {one.b.cut:,} in B."


def _changed_markdown(one: SetComparison) -> list[str]:
    if not one.changed:
        return []
    header = ("item", "change", "question", "answer", "A", "B")
    rows = tuple(_changed_row(pair) for pair in one.changed[:_LISTED])
    more = len(one.changed) - len(rows)
    note = [f"{more:,} more changed; see {HTML} and {JSON}."] if more else []
    return ["Items that changed:", TextTable(header, rows).markdown(), *note]


def _changed_row(pair: Pair) -> tuple[str, ...]:
    texts = (pair.a.question, pair.a.answer, pair.a.reply or "", pair.b.reply or "")
    return (pair.a.id, pair.change, *(shortened(text, _CELL) for text in texts))


def _tile(one: SetComparison) -> str:
    whole = one.whole
    value = f"{_percent(whole.right_a, whole.of)} \u2192 {_percent(whole.right_b, whole.of)}"
    return tile(title_of(one.name, one.a), value, f"{_difference(whole)}, p = {whole.p:.3g}")


def _section(one: SetComparison, pictures: PagePictures) -> str:
    shown = [
        pair
        for change in ("gained", "lost")
        for pair in [p for p in one.changed if p.change == change][:MOST_CARDS]
    ]
    cards = "".join(card(p.change, {"A": p.a, "B": p.b}, pictures) for p in shown)
    more = len(one.changed) - len(shown)
    notes = [*_set_notes(one), *([f"{more:,} more changed; see {JSON}."] if more else [])]
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f"<h2>{escape(title_of(one.name, one.a))}</h2>{_table(one).html()}{told}"
        f"<details><summary>Items by outcome</summary>{_moves(one).html()}</details>"
        f"<section class='scenes'>{cards}</section>"
    )


def _set_document(one: SetComparison) -> dict[str, Any]:
    return {
        "all": _counts_document(one.whole),
        "parts": {name: _counts_document(counts) for name, counts in one.parts.items()},
        "figures": {name: _both(one, name) for name in one.a.figures if name in one.b.figures},
        "outcomes": [[was, now, count] for (was, now), count in sorted(one.moves.items())],
        "only_in_a": one.only_in_a,
        "only_in_b": one.only_in_b,
        "changed": [{"id": pair.a.id, "change": pair.change} for pair in one.changed],
    }


def _both(one: SetComparison, name: str) -> Mapping[str, float]:
    return {"a": one.a.figures[name].value, "b": one.b.figures[name].value}


def _counts_document(counts: Counts) -> dict[str, Any]:
    return {**vars(counts), **counts.difference._asdict(), "p": counts.p}
