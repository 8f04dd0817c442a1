"""Options that stand in a question: "(A) red (B) blue", "A. red" on lines, "A: red, B: blue"."""

import re
from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import NamedTuple

_STYLES = (
    re.compile(r"[(（]([A-Za-z])[)）]"),  # noqa: RUF001  (full-width ones are meant)
    re.compile(r"^[ \t]*([A-Z])[.:)]", re.MULTILINE),
    re.compile(r"(?:(?<=Options:)|(?<=,)|(?<=\n))[ \t]*([A-Z]):[ ]"),
)


class Split(NamedTuple):
    """A question and what it offers."""

    stem: str  # the part before the first option
    options: tuple[tuple[str, str], ...]  # capital and text; none found: ()
    wholes: tuple[str, ...]  # each option's text with all that follows it until the next


def split_options(question: str) -> Split:
    """The last run of at least two options, from A on; a question without one is all stem."""
    runs = [run for style in _STYLES if len(run := _run(style, question)) >= 2]
    if not runs:
        return Split(question, (), ())
    run = max(runs, key=len)
    ends = [match.start() for match in run[1:]] + [len(question)]
    wholes = [question[match.end() : end] for match, end in zip(run, ends, strict=True)]
    texts = [_first_line(whole) for whole in wholes]
    return Split(question[: run[0].start()], lettered(texts), tuple(map(str.strip, wholes)))


def lettered(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(ascii_uppercase, texts, strict=False))


def lines(options: Iterable[tuple[str, str]], form: str) -> str:
    """The options, one a line, in a form such as "({}) {}"."""
    return "\n".join(form.format(letter, text) for letter, text in options)


def _run(style: re.Pattern[str], question: str) -> list[re.Match[str]]:
    """The longest matches that say A, B, C and so on; of equal ones the last."""
    runs: list[list[re.Match[str]]] = [[]]
    for match in style.finditer(question):
        if match[1].upper() == "A":
            runs.append([])
        if match[1].upper() == (ascii_uppercase + " ")[len(runs[-1])]:
            runs[-1].append(match)
    return max(reversed(runs), key=len)


def _first_line(whole: str) -> str:
    """The first line: an instruction may follow the last option on another one."""
    return whole.strip().partition("\n")[0].rstrip(" ,;")
