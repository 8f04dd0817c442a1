"""A set of questions about plain pictures, whose right answer is a letter."""

import io
from collections.abc import Sequence

from PIL import Image

from rollout.evaluation.items import EvaluationSet, Item, SetReading
from tests.rollout.evaluation.chat_server import Said

OPTIONS = (("A", "red"), ("B", "green"), ("C", "blue"))


def png(shade: int, side: int = 24) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, 40, 90)).save(content, "PNG")
    return content.getvalue()


def items(count: int) -> list[Item]:
    return [
        Item(
            id=f"q{number}",
            picture=png(number),
            crop=png(number, 8),
            question=f"Which colour has car {number}?",
            options=OPTIONS,
            answer=OPTIONS[number % 3][0],
            kind="choice",
            fields={"category": "even" if number % 2 == 0 else "odd"},
        )
        for number in range(count)
    ]


def tiny_set(found: Sequence[Item], name: str = "tiny") -> EvaluationSet:
    return EvaluationSet(
        name=name,
        title="Tiny",
        read=lambda folders: SetReading(len(found), iter(found)),
        prompts={"paper": lambda item: item.question, "lmms": lambda item: item.question + " !"},
        corrections={"q0": "C"},
    )


def number_in(text: str) -> int:
    """The number of the car that a prompt is about."""
    return int("".join(filter(str.isdigit, text.partition("?")[0])))


def right(text: str, earlier: int = 0) -> Said:
    return Said(f"The answer is ({OPTIONS[number_in(text) % 3][0]}).")
