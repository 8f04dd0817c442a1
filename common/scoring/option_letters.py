"""Which option's letter a text chooses. Letters of words and of "I" and "A" in a sentence are none.

A letter counts in brackets or after "option" in either case: (b), option B; before ".", ")" or ":"
at the start of a line: "b) red"; alone; and as a capital that stands by itself, "A" and "I" only
where a sentence could not go on after the word. Of several the last counts. Letters that are
denied ("not A", "A is wrong"), joined ("A or B") or listed with their texts choose nothing.
"""

import re
from dataclasses import dataclass
from string import ascii_uppercase

from common.scoring.answer_text import is_negated

_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_LETTER_OF_REFERENCE = re.compile(
    r"(?:(?:option|choice) +)?(?:[(\[]([A-Za-z])[)\]]|([A-Za-z]))[.):]?", re.IGNORECASE
)
_OPTION = re.compile(r"(?:\(([A-Za-z])\)[.:]?|([A-Za-z])[.):](?=\s))\s*(\S.*)", re.DOTALL)
_LISTED = re.compile(r"^[ \t]*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[.):](?=\s|$))", re.MULTILINE)
_NAMED = re.compile(
    r"(?<![A-Za-z])[(\[]([A-Za-z])[)\]]|\b(?:option|choice)s? +([A-Za-z])\b", re.IGNORECASE
)
_STOP = r"[.,;:!?)\]/|。、]"
_BARE = re.compile(
    r"(?<![A-Za-z0-9_'.-])(?:"
    r"([B-HJ-Z])(?![A-Za-z0-9_'-])(?!\.[A-Za-z])"
    rf"|(A)(?=\s*(?:{_STOP}(?![A-Za-z])|\n|$)|[^\x00-\x7f]|\s+(?:is|was|or|and)\b)"
    rf"|(I)(?=\s*(?:{_STOP}(?![A-Za-z])|\n|$)))"
)
_DENIED = re.compile(
    r"[)\]]?\s*(?:(?:is|are|was|seems)\s+(?:not|wrong|incorrect|false)|isn't|是错|不对|错误)",
    re.IGNORECASE,
)
_JOINT = re.compile(r"[)\].:]?\s*(?:,|/|&|、|,?\s*\b(?:or|and|oder|und)\b|或|和)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class _Mention:
    letter: str  # a capital
    begin: int  # where its bracket, or "option", begins in the text
    start: int
    end: int


def option_of(reference: str) -> tuple[str, str] | None:
    """The letter and the option's text of "B", "(b)", "B." (no text), "B. red car"; or None."""
    if alone := _LETTER_OF_REFERENCE.fullmatch(reference):
        return (alone[1] or alone[2]).upper(), ""
    if option := _OPTION.fullmatch(reference):
        return (option[1] or option[2]).upper(), option[3]
    return None


def chosen_letter(text: str, letters: str = ascii_uppercase) -> str | None:
    """The capital of the option that a plain text chooses; None when it does not say.

    Args:
        letters: capitals that there are options of; other letters choose nothing.
    """
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper() if alone[1].upper() in letters else None
    listed = _mentions(_LISTED, text, letters)
    is_list = len({mention.letter for mention in listed}) > 1
    begins = bool(listed) and not is_list and not text[: listed[0].start].strip(" ([")
    named = _apart(_mentions(_NAMED, text, letters), listed)
    bare = [] if begins else _apart(_mentions(_BARE, text, letters), [*listed, *named])
    found = sorted([*named, *bare, *([] if is_list else listed)], key=lambda m: m.start)
    return _last(text, found)


def _last(text: str, found: list[_Mention]) -> str | None:
    """The last mention that is not denied, unless it is joined to another."""
    denied = _denied(text, found)
    places = reversed(range(len(found)))
    held = (found[n] for n in places if not (denied[n] or is_negated(text, found[n].begin)))
    last = next(held, None)
    if last is None:
        return None
    others = [m for m in found if m.end <= last.start and m.letter != last.letter]
    return None if others and _JOINT.fullmatch(text, others[-1].end, last.begin) else last.letter


def _denied(text: str, found: list[_Mention]) -> list[bool]:
    """Whether each is said to be wrong, alone or with the next ones: "A and C are wrong"."""
    flags: list[bool] = []
    after: _Mention | None = None
    for mention in reversed(found):
        is_joined = after is not None and _JOINT.fullmatch(text, mention.end, after.begin)
        flags.append(bool(_DENIED.match(text, mention.end) or (is_joined and flags[-1])))
        after = mention
    return flags[::-1]


def _mentions(pattern: re.Pattern[str], text: str, letters: str) -> list[_Mention]:
    found = []
    for match in pattern.finditer(text):
        group = match.lastindex or 0
        letter, (start, end) = match[group].upper(), match.span(group)
        if letter in letters:
            found.append(_Mention(letter, match.start(), start, end))
    return found


def _apart(mentions: list[_Mention], others: list[_Mention]) -> list[_Mention]:
    taken = {other.start for other in others}
    return [mention for mention in mentions if mention.start not in taken]
