"""What a reply is worth, by rules alone: right, wrong, or undecided where nothing can be read.

    choice    the letter that is stated last; without any, the one option whose text is given
    yes_no    the verdict that is given, as a whole word: "Yes, there is no car" is yes
    open      right by the rules of `common.scoring.answers`; wrong if it states another letter,
              verdict or number; else undecided: rules do not tell a paraphrase from an error

No letter is taken out of a word, an enumeration of the options or a thought that has not ended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from common.scoring.answer_text import is_negated, plain, stated, words
from common.scoring.answers import contradicts, is_correct, verdict
from common.scoring.option_letters import chosen_letter

Kind = Literal["choice", "yes_no", "open"]
Outcome = Literal["right", "wrong", "undecided"]
Options = Sequence[tuple[str, str]]

_EITHER = re.compile(r"\b(?:yes\s*(?:or|and|/)\s*no|no\s*(?:or|and|/)\s*yes)\b", re.IGNORECASE)
_SHOWN = 200  # characters of an open answer


@dataclass(frozen=True)
class Verdict:
    """How a reply was understood."""

    outcome: Outcome
    said: str | None  # the capital, "yes" or "no", or the text; None: nothing could be read


def of_reply(kind: Kind, options: Options, answer: str, reply: str) -> Verdict:
    """The verdict on a reply to a question of any kind."""
    if kind == "choice":
        return of_choice(options, answer, reply)
    return of_yes_no(answer, reply) if kind == "yes_no" else of_open(answer, reply)


def of_choice(options: Options, answer: str, reply: str) -> Verdict:
    """Args:
    options: those of the question; none known: any letter is one.
    answer: the capital of the right option.
    """
    text = stated(plain(reply))
    letters = "".join(letter for letter, _ in options) or ascii_uppercase
    return _compared(chosen_letter(text, letters) or _option_given(options, text), answer)


def of_yes_no(answer: str, reply: str) -> Verdict:
    """Args: answer: "yes" or "no"."""
    text = stated(plain(reply))
    said = None if _EITHER.search(text) else verdict(text)
    return _compared(None if said is None else "yes" if said else "no", answer)


def of_open(answer: str, reply: str) -> Verdict:
    said = stated(plain(reply))[:_SHOWN] or None
    if is_correct(reply, answer):
        return Verdict("right", said)
    return Verdict("wrong" if contradicts(reply, answer) else "undecided", said)


def _compared(said: str | None, answer: str) -> Verdict:
    if said is None:
        return Verdict("undecided", None)
    return Verdict("right" if said == answer else "wrong", said)


# ---- an option by its text -----------------------------------------------------------------------
def _option_given(options: Options, text: str) -> str | None:
    """The option whose text is given, if no other is mentioned: a list of them chooses nothing."""
    given = [option for option in options if is_correct(text, option[1])]
    found = {*(_longest(given) if given else ()), *_mentioned(options, text)}
    return found.pop() if len(found) == 1 else None


def _longest(options: Options) -> list[str]:
    """ "dark red" ends with "red", and gives the longer of both."""
    length = max(len(words(plain(text))) for _, text in options)
    return [letter for letter, text in options if len(words(plain(text))) == length]


def _mentioned(options: Options, text: str) -> set[str]:
    """Letters of options whose words stand in a text, not denied and not within another's."""
    spans = [(letter, *span) for letter, option in options for span in _spans(text, option)]
    widest = [one for one in spans if not any(_is_within(one, other) for other in spans)]
    return {letter for letter, _, _ in widest}


def _spans(text: str, option: str) -> list[tuple[int, int]]:
    """Places of an option's words among those of a text."""
    ours, theirs = words(text), [word.text for word in words(plain(option))]
    starts = range(len(ours) - len(theirs) + 1) if theirs else ()
    return [
        (start, start + len(theirs))
        for start in starts
        if [word.text for word in ours[start : start + len(theirs)]] == theirs
        and not is_negated(text, ours[start].start)
    ]


def _is_within(one: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    is_inside = other[1] <= one[1] and one[2] <= other[2]
    return is_inside and one[2] - one[1] < other[2] - other[1]
