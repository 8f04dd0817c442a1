"""The words in which each benchmark asks.

paper    as Vision-OPD's published figures were asked
lmms     as lmms-eval 0.7.3 asks

The sentences are data: a reply to other words is the reply to another question, so they stand here
letter by letter. The picture comes first, and nothing else is said: no system message.
"""

# ruff: noqa: RUF001  (full-width characters are part of the sentences)

from collections.abc import Callable

from rollout.evaluation.items import Item
from rollout.evaluation.options import lettered, lines, split_options

LETTER_DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
WORD_OR_PHRASE = "\nAnswer the question using a single word or phrase."
_BEST_ANSWER = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with "
    "only the letter (A, B, C, D, or E) of the correct option.\nThe best answer is: "
)
_BEST_ANSWER_CN = (
    "根据图像选择上述多项选择题的最佳答案。"
    "只需回答正确选项的字母（A, B, C, D 或 E）。\n最佳答案为： "
)


def as_published(item: Item) -> str:
    """The question and nothing else."""
    return item.question.strip()


def ended(sentence: str) -> Callable[[Item], str]:
    """The question, then a sentence, unless the question ends with it already."""

    def prompt(item: Item) -> str:
        question = item.question.strip()
        return question if question.endswith(sentence.strip()) else question + sentence

    return prompt


def lmms_vstar(item: Item) -> str:
    """The question. The set's own sentence after the last option stays, so it is said twice."""
    stem, _, wholes = split_options(item.question)
    if not wholes:
        return item.question + LETTER_DIRECTLY
    return f"{stem.strip()}\n{lines(lettered(wholes), '{}. {}')}{LETTER_DIRECTLY}"


def lmms_mmvp(item: Item) -> str:
    stem = split_options(item.question).stem.strip()
    return f"{stem}\n{lines(item.options, '{}. {}')}{LETTER_DIRECTLY}"


def lmms_mmstar(item: Item) -> str:
    """The question with a sentence that has no full stop."""
    question = item.question.strip().replace(" Please answer yes or no.", "")
    return question + LETTER_DIRECTLY.removesuffix(".")


def lmms_cv_bench(item: Item) -> str:
    letters = ", ".join(letter for letter, _ in item.options)
    note = f"Note: You only need to respond with {letters} without providing any additional"
    return f"{note} information.\n\n{item.question}"


def paper_hrbench(item: Item) -> str:
    choices = lines(item.options, "({}) {}")
    return f"{item.question.strip()} Select from the following choices.\n{choices}"


def lmms_hrbench(item: Item) -> str:
    choices = lines(item.options, "{}. {}")
    return f"{item.question.strip()}\n{choices}\nAnswer the option letter directly."


def mme_realworld(item: Item) -> str:
    """The question of both styles."""
    return f"{item.question} The choices are listed below:\n{_choices(item)}\n{_BEST_ANSWER}"


def mme_realworld_cn(item: Item) -> str:
    return f"{item.question} 选项如下所示:\n{_choices(item)}\n{_BEST_ANSWER_CN}"


def _choices(item: Item) -> str:
    """The options as the set writes them: some have full-width brackets."""
    return item.fields["choices"]
