"""The words of each set, letter by letter."""

# ruff: noqa: RUF001  (full-width characters are part of the sentences)

import pytest

from common.errors import ConfigError
from rollout.evaluation.sets import SETS
from tests.rollout.evaluation.set_files import write_set

_DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
_VSTAR = "What is thing 0 made of?\n"
_PLACES = "Where is the sign 0?"
_WORDS = "\n".join(f"({letter}) word {letter}" for letter in "ABCDE")
_BEST = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with "
    "only the letter (A, B, C, D, or E) of the correct option.\nThe best answer is: "
)
_BEST_CN = "根据图像选择上述多项选择题的最佳答案。只需回答正确选项的字母（A, B, C, D 或 E）。"
_MME = f"What does sign 0 say? The choices are listed below:\n{_WORDS}\n{_BEST}"
_MME_CN = f"What does sign 0 say? 选项如下所示:\n{_WORDS}\n{_BEST_CN}\n最佳答案为： "
_MMSTAR = "Which one?\nOptions: A: a cat, B: a dog, C: a cow, D: a hen"
_POPE = "Is there a car 0 in the image?\nAnswer the question using a single word or phrase."
_CV = "How many? Select from the following choices.\n(A) 1\n(B) 2\n(C) 3"
_WINGS = "Are the wings open, or closed?"

PROMPTS = {
    ("vstar", "paper"): _VSTAR + "(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather" + _DIRECTLY,
    ("vstar", "lmms"): _VSTAR + "A. rubber\nB. cotton\nC. kevlar\nD. leather" + _DIRECTLY * 2,
    ("zoombench", "paper"): "Which colour is it?\nA. red\nB. blue 0",
    ("hrbench-4k", "paper"): f"{_PLACES} Select from the following choices.\n(A) place A\n"
    "(B) place B\n(C) place C\n(D) place D",
    ("hrbench-4k", "lmms"): f"{_PLACES}\nA. place A\nB. place B\nC. place C\nD. place D\n"
    "Answer the option letter directly.",
    ("mme-realworld", "paper"): _MME,
    ("mme-realworld", "lmms"): _MME,
    ("mme-realworld-lite", "paper"): _MME,
    ("mme-realworld-cn", "paper"): _MME_CN,
    ("mme-realworld-cn", "lmms"): _MME_CN,
    ("mmstar", "paper"): _MMSTAR,
    ("mmstar", "lmms"): _MMSTAR + _DIRECTLY[:-1],
    ("pope", "paper"): _POPE,
    ("pope", "lmms"): _POPE,
    ("cv-bench", "paper"): _CV,
    ("cv-bench", "lmms"): "Note: You only need to respond with A, B, C without providing any "
    f"additional information.\n\n{_CV}",
    ("mmvp", "paper"): f"{_WINGS} (a) Open (b) Closed",
    ("mmvp", "lmms"): f"{_WINGS}\nA. Open\nB. Closed{_DIRECTLY}",
    ("visualprobe", "paper"): "How many?",
}


@pytest.mark.parametrize("name, style", PROMPTS)
def test_a_set_asks_in_its_published_words(name, style, tmp_path):
    one = SETS[name]
    item = next(one.open(write_set(name, tmp_path / "copy", 12), limit=1).items)
    assert one.prompt(item, style) == PROMPTS[name, style]


def test_each_set_has_the_papers_words_and_seven_benchmarks_have_lmms_evals():
    assert all("paper" in one.styles for one in SETS.values())
    without = {name for name, one in SETS.items() if "lmms" not in one.styles}
    assert without == {"zoombench", "visualprobe"}


def test_a_style_that_a_set_has_not_is_refused(tmp_path):
    item = next(
        SETS["zoombench"].open(write_set("zoombench", tmp_path / "copy", 12), limit=1).items
    )
    with pytest.raises(ConfigError, match=r"no prompt style 'lmms'. Fix: choose one of paper"):
        SETS["zoombench"].prompt(item, "lmms")
