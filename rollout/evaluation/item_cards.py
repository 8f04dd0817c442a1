"""Items as cards of a page: picture, question, answer, and what one or two runs replied.

A page holds its pictures, so it holds only so many: of the rest their words are shown. Cards are
chosen by radio buttons and CSS alone.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from common.page import picture_url
from rollout.evaluation.stored_result import StoredItem, picture_bytes

MOST_CARDS = 60  # cards of one kind in one set
_MOST_PICTURE_BYTES = 24 * 2**20  # in one page
_SHORT = 280  # characters of a reply that is shown without being asked for
_MARKS = {
    "right": '<b class="right" title="right">&#10003;</b>',
    "wrong": '<b class="wrong" title="wrong">&#10007;</b>',
    "undecided": '<b title="undecided">?</b>',
    "failed": '<b class="wrong" title="failed">!</b>',
}
STYLE = """
article { content-visibility: auto; contain-intrinsic-size: auto 360px; }
article img { width: 100%; max-height: 320px; object-fit: contain; border-radius: 6px; }
fieldset { border: 0; padding: 0; margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }
legend { float: left; color: var(--quiet); margin-right: 4px; }
.reply { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; overflow-wrap: anywhere; }
"""


class PagePictures:
    """The pictures of one page, until it has enough of them."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders  # folders of the results that are shown
        self._left = _MOST_PICTURE_BYTES

    def html_of(self, items: Sequence[StoredItem]) -> str:
        """The picture of an item: nothing where there is none, words where it is left out.

        Args:
            items: the same one in each result.
        """
        found = map(picture_bytes, self._folders, items)
        content = next((one for one in found if one is not None), None)
        url = None if content is None else picture_url(content)
        if content is None or url is None:
            return ""
        if len(content) > self._left:
            return "<p>The picture is left out: this page has many.</p>"
        self._left -= len(content)
        return f'<img src="{url}" alt="the picture that was asked about">'


def card(kind: str, replies: Mapping[str, StoredItem], pictures: PagePictures) -> str:
    """One question, and what was replied to it.

    Args:
        kind: the word by which cards are chosen.
        replies: the item in each run, by what to call the run.
    """
    item = next(iter(replies.values()))
    told = "".join(f"<dt>{escape(name)}</dt><dd>{_reply(r)}</dd>" for name, r in replies.items())
    return (
        f'<article class="is-{escape(kind)}">{pictures.html_of([*replies.values()])}'
        f"<h3>{escape(item.question.strip())}</h3><dl><dt>answer</dt><dd>{escape(item.answer)}</dd>"
        f"{told}<dt>item</dt><dd>{escape(item.id)}{_fields(item)}</dd></dl></article>"
    )


def chooser(kinds: Sequence[str]) -> str:
    """Radio buttons that choose the cards of one kind, and the style that obeys them."""
    rules = "".join(
        f"main:has(#show-{kind}:checked) article:not(.is-{kind}) {{ display: none; }}"
        for kind in kinds
    )
    buttons = "".join(_button(kind) for kind in kinds)
    return (
        f"<style>{rules}</style><fieldset><legend>Show</legend>"
        f'<label><input type="radio" name="show" checked> all</label>{buttons}</fieldset>'
    )


def _button(kind: str) -> str:
    return f'<label><input type="radio" name="show" id="show-{kind}"> {kind}</label>'


def _reply(item: StoredItem) -> str:
    remarks = [f"said {item.said}"] if item.said is not None else []
    remarks += ["by the judge"] if item.judged else []
    remarks += ["cut at the length limit"] if item.cut else []
    remarks += [f"error: {item.error}"] if item.error is not None else []
    told = escape("; ".join(remarks) or item.outcome)
    return f"{_MARKS[item.outcome]} {told}{_text(item.reply or '')}"


def _text(reply: str) -> str:
    if not reply:
        return ""
    whole = f'<div class="reply">{escape(reply)}</div>'
    if len(reply) <= _SHORT:
        return whole
    return f"<details><summary>{escape(reply[:_SHORT])} ...</summary>{whole}</details>"


def _fields(item: StoredItem) -> str:
    told = "; ".join(f"{name} = {value}" for name, value in item.fields.items())
    return f"<small>{escape(told)}</small>" if told else ""
