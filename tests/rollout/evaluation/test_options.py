"""Options that stand in a question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.evaluation.options import lettered, lines, split_options


@pytest.mark.parametrize(
    "question, stem, texts",
    [
        ("Colour?\n(A) red\n(B) blue\nAnswer directly.", "Colour?\n", ["red", "blue"]),
        ("Wings? (a) Open (b) Closed", "Wings? ", ["Open", "Closed"]),
        ("Which?\nA. red\nB. a blue. One", "Which?\n", ["red", "a blue. One"]),
        ("Which?\nOptions: A: x, y, B: z", "Which?\nOptions:", ["x, y", "z"]),
        ("Hint\nChoices:\n(A) 1\n(B) 2\n(C) 3", "Hint\nChoices:\n", ["1", "2", "3"]),
        (
            "Is (A) of the plan a car?\n(A) yes\n(B) no",
            "Is (A) of the plan a car?\n",
            ["yes", "no"],
        ),
        ("哪个？（A）红 （B）蓝", "哪个？", ["红", "蓝"]),  # noqa: RUF001
        ("What does the sign (B) say?", "What does the sign (B) say?", []),
        ("See (A).", "See (A).", []),
        ("", "", []),
    ],
)
def test_options_are_found_where_a_run_of_letters_begins_with_a(question, stem, texts):
    split = split_options(question)
    assert split.stem == stem
    assert [text for _, text in split.options] == texts
    assert "".join(letter for letter, _ in split.options) == "ABCDEFGH"[: len(texts)]


@given(st.lists(st.text("abc xyz", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6))
def test_what_is_listed_is_found_again(texts):
    for form in ("({}) {}", "{}. {}"):
        question = "Which one?\n" + lines(lettered(texts), form)
        assert split_options(question).options == lettered(texts)
