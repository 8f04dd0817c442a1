"""Does a response give the reference answer? Rules alone: no model judges, nothing is asked.

What counts is the answer that a response states last (`answer_text.stated`). Then, by what the
reference is:

    option      B, (B), "B. red car"   the letter that is chosen; without any, the option's text
    yes or no   yes, нет, 是            the verdict that is given; "Yes, there is no car" is yes
    quantity    3, -3, 50%, 12 km      the last number, equal as a number: 3 is 3.0, three, 3/1
    text        dark red; a sentence   the same words, or words that end with them: "it is dark red"

Of a reference that is a sentence what stands after its last verb is enough: "7" for "The red tag
shows 7." Negations, alternatives ("7 or 8") and comparisons ("more than 7") state nothing, and
what states nothing is wrong. A unit may be left out on one side; two that are named must be the
same, and nothing is converted: 50% is "50 %" and 50, but not 0.5; 12 km is 12, but neither 12 m nor
12000 m. Numbers are equal exactly: 0.33 is not 1/3. Accents count; case, articles and punctuation
do not.

Limits, all of which call a right answer wrong except the last three: synonyms and paraphrases
("left" for "on the left"); text that goes on after the answer without "Answer:"; dates, times and
ranges unless word for word; Chinese numerals; several answers in another order; inflected words.
A response that only ends like the reference passes ("light red" for "red"), a capital that is no
option may pass for one ("it shows vitamin C"), and so may a guess among few options.
"""

import re

from common.scoring.answer_numbers import Quantity, is_compatible, quantities
from common.scoring.answer_text import (
    Word,
    clauses,
    first_word,
    is_negated,
    is_unspaced,
    plain,
    stated,
    without_negated_end,
    words,
)
from common.scoring.option_letters import chosen_letter, option_of

_SAYS_YES = "yes ja oui sí sì sim да نعم 是 有 对 對 はい 네"
_SAYS_NO = "no nein non não нет لا 否 不 不是 没有 不对 いいえ 아니요"
_VERDICTS = dict.fromkeys(_SAYS_YES.split(), True) | dict.fromkeys(_SAYS_NO.split(), False)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|shows?|says?|reads?|ist|est|es)\b|[=是为為は]", re.IGNORECASE
)
_NUMBER = "#"  # stands for any number
_SENTENCE_ENDS = re.compile(r"[.!?;\n。]+")
_BEFORE_UNSPACED = frozenset("是为為はがを示")  # the word after these begins
_OR = "or either oder entweder ou или أو 或"
_ALTERNATIVES = frozenset(_OR.split())
_BETWEEN_ALTERNATIVES = frozenset(f"{_OR} and to und bis y et 和 至".split())


def is_correct(response: str, reference: str) -> bool:
    """Whether a response gives the reference answer; what cannot be decided is not correct."""
    answer, wanted = stated(plain(response)), stated(plain(reference))
    return bool(answer) and bool(wanted) and _agrees(answer, wanted)


def contradicts(response: str, reference: str) -> bool:
    """Whether a response states another answer of the reference's own kind.

    Another letter, verdict or quantity, or the reference's own sentence with another number in it;
    of texts that differ rules cannot tell a paraphrase from an error, so they contradict nothing.
    """
    answer, wanted = stated(plain(response)), stated(plain(reference))
    if not answer or not wanted or _agrees(answer, wanted):
        return False
    if _frame(answer) == (frame := _frame(wanted)) and _NUMBER in frame:
        return True
    if option_of(wanted) is not None:
        return chosen_letter(answer) is not None
    if _verdict_alone((clauses(wanted) or [""])[0]) is not None:
        return verdict(answer) is not None
    return _quantity_of(wanted) is not None and _last_quantity(answer) is not None


def _agrees(answer: str, wanted: str) -> bool:
    option = option_of(wanted)
    if option is not None and not option[1]:
        return chosen_letter(answer) == option[0]
    if _is_same(answer, wanted):
        return True
    if option is not None:
        letter = chosen_letter(answer)
        return _agrees(answer, option[1]) if letter is None else letter == option[0]
    if (wanted_verdict := _verdict_alone((clauses(wanted) or [""])[0])) is not None:
        return verdict(answer) == wanted_verdict
    if (quantity := _quantity_of(wanted)) is not None:
        return _gives(answer, *quantity)
    if _ends_with(answer, wanted) or _ends_with(without_negated_end(answer), wanted):
        return True
    predicate = _predicate(wanted)
    return predicate is not None and _agrees(answer, predicate)


def _frame(text: str) -> list[str]:
    """The words of a text, with one sign for every number."""
    return [_NUMBER if any(map(str.isdigit, text)) else text for text in _texts(words(text))]


def _is_same(answer: str, wanted: str) -> bool:
    ours, theirs = _texts(words(answer)), _texts(words(wanted))
    return ours == theirs if ours or theirs else answer == wanted


# ---- yes or no -----------------------------------------------------------------------------------
def verdict(text: str) -> bool | None:
    """What a plain text says to a question of yes or no; None when it does not.

    The first clause that is nothing else, of the last sentence that has one: "Yes. No other cars
    are there." is yes. Else that of the last clause which begins with one; else the last "yes" or
    "no" of all.
    """
    alone = [one for part in _SENTENCE_ENDS.split(text) if (one := _alone(part)) is not None]
    if alone:
        return alone[-1]
    opening = [one for part in clauses(text) if (one := _opening_verdict(part)) is not None]
    if opening:
        return opening[-1]
    said = [word.text for word in words(text) if word.text in ("yes", "no")]
    return said[-1] == "yes" if said else None


def _alone(sentence: str) -> bool | None:
    found = (_verdict_alone(clause) for clause in clauses(sentence))
    return next((one for one in found if one is not None), None)


def _opening_verdict(clause: str) -> bool | None:
    """The verdict of a clause's first word; without spaces, of all: "是红色" is a description."""
    first = next(iter(words(clause)), None)
    return None if first is None else _verdict_alone(clause if is_unspaced(first) else first.text)


def _verdict_alone(text: str) -> bool | None:
    return _VERDICTS.get("".join(_texts(words(text))))


# ---- quantities ----------------------------------------------------------------------------------
def _quantity_of(wanted: str) -> tuple[Quantity, str] | None:
    """The only number of a reference that holds no more than it and one word; "" without one."""
    found = quantities(wanted)
    if len(found) != 1 or words(wanted[: found[0].start]):
        return None
    rest = _texts(words(wanted[found[0].end :]))
    return (found[0], "".join(rest)) if len(rest) <= 1 else None


def _gives(answer: str, wanted: Quantity, noun: str) -> bool:
    given = _last_quantity(answer)
    if given is None or given.value != wanted.value:
        return False
    after = _texts(words(answer[given.end :]))
    if noun and after and after[0].removesuffix("s") != noun.removesuffix("s"):
        return False
    return is_compatible(given.unit, wanted.unit)


def _last_quantity(text: str) -> Quantity | None:
    """The last quantity that is neither denied nor one of several alternatives."""
    found = quantities(text)
    held = [quantity for quantity in found if not is_negated(text, quantity.start)]
    if not held:
        return None
    earlier = [quantity for quantity in found if quantity.end <= held[-1].start]
    if earlier and earlier[-1].value != held[-1].value:
        between = _texts(words(text[earlier[-1].end : held[-1].start]))
        if between and set(between) <= _BETWEEN_ALTERNATIVES:
            return None
    return held[-1]


# ---- text ----------------------------------------------------------------------------------------
def _ends_with(answer: str, wanted: str) -> bool:
    """Whether an answer ends with the wanted words, not denied and not as an alternative."""
    ours, theirs = words(answer), words(wanted)
    place = len(ours) - len(theirs)
    if place < 0 or not theirs or _texts(ours[place:]) != _texts(theirs):
        return False
    if place == 0:
        return True
    before, first = ours[place - 1], ours[place]
    if is_unspaced(first) and is_unspaced(before) and not _is_apart(answer, before, first):
        return False
    return before.text not in _ALTERNATIVES and not is_negated(answer, first.start)


def _is_apart(text: str, before: Word, first: Word) -> bool:
    is_adjacent = before.start + len(before.text) == first.start
    return before.text in _BEFORE_UNSPACED or not is_adjacent


def _predicate(sentence: str) -> str | None:
    """What stands after the last verb of a sentence; None without one, or with nothing there."""
    begun = first_word(sentence)
    ends = [match.end() for match in _VERB.finditer(sentence) if begun < match.start()]
    predicate = sentence[ends[-1] :].strip() if ends else ""
    return predicate if words(predicate) else None


def _texts(found: list[Word]) -> list[str]:
    return [word.text for word in found]
