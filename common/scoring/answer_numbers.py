"""Numbers and their units in a text that `answer_text.plain` has made uniform.

Read as one number: 3, 3.0, .5, -3, minus 3, 1,234.5, 3,5 (a decimal comma), 1e3, 3/4, 1 1/2, 50%,
$5, 12 km, 12km. Not read as numbers: parts of 12:30, 3-5, 1.2.3, 3/4/2020, 10^2, A12, 3D. A comma
before exactly three digits groups thousands: 3,500 is 3500.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 40  # a longer number is no answer, and costs time to read
_NUMBER = re.compile(
    r"""
    (?<![A-Za-z0-9_^]) (?<![0-9][.,:/-])
    (?P<sign> [+-] | (?:minus|negative)\s )? (?P<money> [$€£¥] )?
    (?: (?: (?P<whole> \d+ ) [ ] )? (?P<over> \d+ ) [ ]?/[ ]? (?P<under> \d+ )
      | (?P<grouped> [1-9]\d{0,2} (?:,\d{3})+ (?:\.\d+)? )
      | (?P<comma> \d+,\d+ )
      | (?P<decimal> (?: \d+ (?:\.\d+)? | \.\d+ ) (?:e[+-]?\d\d?)? )
    )
    (?![0-9^]) (?![.,:/-][0-9])
    (?: [ ]? (?P<unit> %|°[ ]?[CF]\b|°|€|£|¥ | km/h\b|m/s\b | 元|円 | [A-Za-z]+ )
      | (?P<bare> ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNIT_NAMES = {
    "%": "% percent pct",
    "°": "° degree degrees",
    "$": "$ dollar dollars usd",
    "€": "€ euro euros eur",
    "pound": "£ gbp pound pounds lb lbs",
    "¥": "¥ 元 円 yen yuan rmb",
    "km": "km kilometer kilometers kilometre kilometres",
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "mile": "mile miles mi",
    "foot": "foot feet ft",
    "inch": "inch inches",
    "kg": "kg kilogram kilograms kilo kilos",
    "g": "g gram grams",
    "s": "s sec second seconds",
    "min": "min minute minutes",
    "h": "h hr hrs hour hours",
    "km/h": "km/h kmh kph",
    "mph": "mph",
    "m/s": "m/s",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "°c": "°c celsius",
    "°f": "°f fahrenheit",
}
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()}
_UP_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_WORDS = {word: Fraction(value) for value, word in enumerate(_UP_TO_TWENTY.split())}
_WORD = re.compile(rf"\b(?P<minus>minus |negative )?(?P<word>{'|'.join(_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    value: Fraction
    unit: str | None  # under one name; None means no known unit
    start: int  # where sign or first digit is in the text
    end: int  # where the unit ends, if it is known, else the number


def quantities(text: str) -> list[Quantity]:
    """All numbers in digits, in order; if there are none, those in words up to twenty."""
    return list(_in_digits(text)) or list(_in_words(text))


def is_compatible(one: str | None, other: str | None) -> bool:
    """Whether two units say the same, or one of them is left out."""
    return one is None or other is None or one == other


def _in_digits(text: str) -> Iterator[Quantity]:
    place = 0
    while (match := _NUMBER.search(text, place)) is not None:
        place = match.end()
        word = match["unit"]
        unit = _unit(word)
        end = match.end() if unit or not word else match.start("unit")
        is_attached = bool(word) and unit is None and text[end - 1] != " "
        if unit is None:
            place = end = len(text[:end].rstrip())
        value = None if is_attached and word.isalpha() else _value(match)
        if value is not None:
            yield Quantity(value, unit or _unit(match["money"]), match.start(), end)


def _in_words(text: str) -> Iterator[Quantity]:
    for match in _WORD.finditer(text):
        value = _WORDS[match["word"].lower()]
        after = re.match(r" ?([A-Za-z]+|%)", text[match.end() :])
        unit = _unit(after[1]) if after else None
        end = match.end() + (after.end() if after and unit else 0)
        yield Quantity(-value if match["minus"] else value, unit, match.start(), end)


def _unit(word: str | None) -> str | None:
    if word is None:
        return None
    word = word.replace(" ", "")
    return _UNITS.get(word if len(word) == 1 else word.lower())  # 5 m is not 5 M


def _value(match: re.Match[str]) -> Fraction | None:
    """The number; None means that it is too long to be an answer, or divided by zero."""
    if sum(map(str.isdigit, match[0])) > _MAX_DIGITS:
        return None
    if match["under"]:
        if not int(match["under"]):
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    elif match["grouped"]:
        value = Fraction(match["grouped"].replace(",", ""))
    else:
        value = Fraction((match["comma"] or match["decimal"]).replace(",", "."))
    return -value if (match["sign"] or "+")[0].lower() in "-mn" else value
