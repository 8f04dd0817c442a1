"""What a response states: its text made uniform, the part that answers, and its words.

plain  >  stated  >  words, is_negated
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache

from common.scoring.answer_numbers import quantities

_SYMBOLS = {"%": "percent", "$": "dollar", "€": "euro", "£": "pound", "°": "degree"}
_ARTICLES = {"a", "an", "the"}
_ENDINGS = (("的",), ("で", "す"), ("で", "あ", "る"), ("입니다",))  # endings that add nothing
_NEGATIONS = (
    "not no never neither nor cannot without except unlike than instead nicht kein keine keinen "
    "nein nie pas ne non jamais sans nunca não nem не нет ни без никогда "
    "لا ليس ليست لم لن غير بدون 不 没 沒 無 无 非 未 否"
)
_IS_NEGATION = frozenset(_NEGATIONS.split())
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_BOUNDARY = re.compile(
    r"(?<!\d)[.,:]|[.,:](?!\d)|[!?;\n()。、]|\b(?:but|rather|sondern|sino)\b|而是", re.IGNORECASE
)
_MARKER = re.compile(
    r"\b(?:answer|antwort|respuesta|resposta|risposta|réponse|ответ|الإجابة|الجواب)\b"
    r"[^.:=\n]{0,60}?(?:\b(?:is|be|ist|lautet|es|é|è|est|هي|هو)\b|[:=—])[\s:]*"
    r"|(?:答案|答え|정답)[^.:\n。]{0,20}?[是为為は은:]\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"(?:(?<=\w\w)|(?<=\d))(?<!\b[DM]r)(?<!\bMrs)(?<!\bSt)(?<!\bNo)(?<!\bvs)[.!?](?=\s)|[。\n]"
)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_HIGH = {ord(high): f"^{low}" for high, low in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)}
_SAME = str.maketrans(
    {"−": "-", "–": "-", "⁄": "/", "’": "'", "٫": ".", "٬": ",", "*": None, "`": None}  # noqa: RUF001
)


@dataclass(frozen=True)
class Word:
    text: str  # case folded; a number by its value
    start: int  # in the text


# ---- the text ------------------------------------------------------------------------------------
def plain(text: str) -> str:
    """One form for what looks the same: NFKC, digits, minus signs, apostrophes; no emphasis.

    Case stays: it tells a letter from a word.
    """
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3})", "", text)  # spaces that group digits
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)  # NFKC would make one number of them
    text = unicodedata.normalize("NFKC", text.translate(_HIGH)).translate(_SAME)
    text = _LATEX_TEXT.sub(r"\1", text)
    return "".join(_ascii_digit(char) for char in text if unicodedata.category(char) != "Cf")


def stated(text: str) -> str:
    """The last answer that a plain text states as one; without any, all of it.

    What is thought first does not count; a thought that never ends states nothing. Then:
    <answer>X</answer>, \\boxed{X}, "Answer: X", "the answer is X", also in other languages.
    """
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        return ""
    if tagged := [part for part in _TAG.findall(text) if part.strip()]:
        text = tagged[-1]
    text = _boxed(text) or text
    marked = [text[match.end() :] for match in _MARKER.finditer(text)]
    if marked and words(marked[-1]):
        text = _first_sentence(marked[-1].strip())
    return text.strip()


def _first_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end and words(text[: end.start()]) else text


def _boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds; None without one that ends."""
    _, found, after = text.rpartition("\\boxed{")
    depth = 1
    for place, char in enumerate(after):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return after[:place] if found else None
    return None


def _ascii_digit(char: str) -> str:
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


# ---- its words -----------------------------------------------------------------------------------
def words(text: str) -> list[Word]:
    """Words, numbers and symbols of a plain text; articles and endings only if nothing else is.

    A character of a script without spaces (Chinese, Japanese, Thai ...) is a word.
    """
    found: list[Word] = []
    place = 0
    for number in quantities(text):
        digits = text[number.start : number.end]
        if not any(map(str.isdigit, digits)):
            continue  # a word, which is found below
        found += _between(text, place, number.start)
        found.append(Word(str(number.value), number.start))
        place = number.end
        if number.unit is not None:
            found.append(Word(_SYMBOLS.get(number.unit, number.unit), number.start))
    found += _between(text, place, len(text))
    return _without_ending([word for word in found if word.text not in _ARTICLES] or found)


def is_negated(text: str, place: int) -> bool:
    """Whether a negation stands before `place` in its clause."""
    starts = _clause_starts(text)
    begun = starts[bisect_right(starts, place) - 1]
    if not text[place - 1 : place].isspace():  # a word may be cut there
        return any(map(is_negation, _between(text, begun, place)))
    negations = _negation_starts(text)
    return bisect_left(negations, begun) < bisect_left(negations, place)


@lru_cache(maxsize=4)
def _negation_starts(text: str) -> tuple[int, ...]:
    return tuple(word.start for word in _between(text, 0, len(text)) if is_negation(word))


@lru_cache(maxsize=4)
def _clause_starts(text: str) -> tuple[int, ...]:
    """Where clauses start, in order: a reply that repeats itself is asked about thousands of times.

    The first is 0.
    """
    return 0, *(match.end() for match in _BOUNDARY.finditer(text))


def is_negation(word: Word) -> bool:
    return word.text in _IS_NEGATION or word.text.endswith("n't")


def is_unspaced(word: Word) -> bool:
    return bool(_UNSPACED.match(word.text))


def clauses(text: str) -> list[str]:
    """Parts between punctuation and words such as "but"; none is blank."""
    return [part.strip() for part in _BOUNDARY.split(text) if part.strip()]


def first_word(text: str) -> int:
    """Where the first word begins; the text's length without any."""
    return next((word.start for word in words(text)), len(text))


def without_negated_end(text: str) -> str:
    """The text without what it denies at its end: "red" for "red, not blue"."""
    begun = first_word(text)
    ends = [match for match in _BOUNDARY.finditer(text) if begun < match.start()]
    for match in reversed(ends):
        rest = words(text[match.end() :])
        if rest and not is_negation(rest[0]):
            break
        text = text[: match.start()]
    return text


def _between(text: str, start: int, end: int) -> list[Word]:
    """Words of letters, and symbols."""
    found: list[Word] = []
    is_open = False  # the next character may belong to the last word
    for place in range(start, end):
        char, kind = text[place], unicodedata.category(text[place])
        belongs = kind[0] in "LN" and not _UNSPACED.match(char)
        if is_open and (kind[0] == "M" or char == "'" or (belongs and not is_unspaced(found[-1]))):
            found[-1] = Word(found[-1].text + char.casefold(), found[-1].start)
        elif kind[0] in "LNS" or char in "#&@%":
            found.append(Word(_SYMBOLS.get(char, char.casefold()), place))
            is_open = kind[0] in "LN"
        else:
            is_open = False
    return [Word(word.text.strip("'"), word.start) for word in found]


def _without_ending(found: list[Word]) -> list[Word]:
    for ending in _ENDINGS:
        kept = len(found) - len(ending)
        if kept > 0 and tuple(word.text for word in found[kept:]) == ending:
            return found[:kept]
    return found
