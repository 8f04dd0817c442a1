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

from common.scoring.answer_text import Word, is_negated, plain, stated, words
from common.scoring.answers import contradicts, is_correct, verdict
from common.scoring.option_letters import chosen_letter

Kind = Literal["choice", "yes_no", "open"]
Outcome = Literal["right", "wrong", "undecided"]
Options = Sequence[tuple[str, str]]

_EITHER = re.compile(r"\b(?:yes\s*(?:or|and|/)\s*no|no\s*(?:or|and|/)\s*yes)\b", re.IGNORECASE)
_SHOWN = 200  # characters of an open answer
_LONGEST, _HEAD = 8_000, 1_000  # characters that are read of a reply, and of its beginning


@dataclass(frozen=True)
class ReplyVerdict:
    """How a reply was understood."""

    outcome: Outcome
    said: str | None  # the capital, "yes" or "no", or the text; None if nothing could be read


def of_reply(kind: Kind, options: Options, answer: str, reply: str) -> ReplyVerdict:
    """The verdict on a reply to a question of any kind."""
    if kind == "choice":
        return of_choice(options, answer, reply)
    return of_yes_no(answer, reply) if kind == "yes_no" else of_open(answer, reply)


def of_choice(options: Options, answer: str, reply: str) -> ReplyVerdict:
    """The verdict on a reply that chooses an option.

    Args:
        options: those of the question, as far as known; empty means that any letter is one.
        answer: the capital of the right one.
    """
    text = stated(plain(_legible(reply)))
    letters = "".join([*dict(options), answer]) if options else ascii_uppercase
    return _compared(chosen_letter(text, letters) or _option_given(options, text), answer)


def of_yes_no(answer: str, reply: str) -> ReplyVerdict:
    """The verdict on a reply to a question of yes or no. Args: answer: "yes" or "no"."""
    text = stated(plain(_legible(reply)))
    said = None if _EITHER.search(text) else verdict(text)
    return _compared(None if said is None else "yes" if said else "no", answer)


def of_open(answer: str, reply: str) -> ReplyVerdict:
    """The verdict on a free reply, by the kind of the reference answer."""
    reply = _legible(reply)
    said = stated(plain(reply))[:_SHOWN] or None
    if is_correct(reply, answer):
        return ReplyVerdict("right", said)
    return ReplyVerdict("wrong" if contradicts(reply, answer) else "undecided", said)


def _legible(reply: str) -> str:
    """The reply without its thought; both ends of one that is too long, as a model repeats itself.

    Reading takes longer than in proportion to the length.
    """
    after = reply.rpartition("</think>")[2]
    if len(after) <= _LONGEST or "<think>" in after:
        return after
    return f"{after[:_HEAD]}\n{after[_HEAD - _LONGEST :]}"


def _compared(said: str | None, answer: str) -> ReplyVerdict:
    if said is None:
        return ReplyVerdict("undecided", None)
    return ReplyVerdict("right" if said == answer else "wrong", said)


# ---- an option by its text -----------------------------------------------------------------------
def _option_given(options: Options, text: str) -> str | None:
    """The option whose text is given, if no other is mentioned: a list of them chooses nothing."""
    given = [option for option in options if is_correct(text, option[1])]
    found = {*(_longest(given) if given else ()), *_mentioned(options, text)}
    return found.pop() if len(found) == 1 else None


def _longest(options: Options) -> list[str]:
    """Letters of those with the most words: a reply of "dark red" ends with "red", too."""
    length = max(len(words(plain(text))) for _, text in options)
    return [letter for letter, text in options if len(words(plain(text))) == length]


def _mentioned(options: Options, text: str) -> set[str]:
    """Letters of options whose words stand in a text, not denied and not within a longer one's."""
    ours = words(text)
    found: set[str] = set()
    taken: dict[int, int] = {}  # place of a word -> words of the longest option that has it
    for letter, theirs in sorted(_worded(options), key=lambda option: -len(option[1])):
        for place in _places(ours, theirs):
            if taken.get(place, 0) <= len(theirs) and not is_negated(text, ours[place].start):
                found.add(letter)
            for inside in range(place, place + len(theirs)):
                taken.setdefault(inside, len(theirs))
    return found


def _worded(options: Options) -> list[tuple[str, list[str]]]:
    return [(letter, [word.text for word in words(plain(text))]) for letter, text in options]


def _places(ours: Sequence[Word], theirs: Sequence[str]) -> list[int]:
    """Where an option's words stand among those of a text."""
    if not theirs:
        return []
    starts = (n for n, word in enumerate(ours) if word.text == theirs[0])
    return [n for n in starts if [word.text for word in ours[n : n + len(theirs)]] == theirs]
