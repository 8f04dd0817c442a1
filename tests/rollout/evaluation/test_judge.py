"""What a judge is asked, and how its word is taken."""

import pytest

from rollout.evaluation.judge import judge_prompt, verdict_in


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Yes", True),
        ("yes.", True),
        ("**Yes**, it does", True),
        ("No", False),
        ("no: it says red", False),
        ("<think>Yes? Hm.</think>\n\nNo.", False),
        ("Not at all", None),
        ("Yesterday", None),
        ("I think yes", None),
        ("", None),
    ],
)
def test_a_judge_decides_with_its_first_word_alone(said: str, verdict: bool | None) -> None:
    assert verdict_in(said) is verdict


def test_a_judge_sees_question_options_answer_and_the_end_of_the_reply() -> None:
    prompt = judge_prompt("Which {one}?", [("A", "red"), ("B", "blue")], "B", "x" * 9000 + "{blue}")
    assert "Question:\nWhich {one}?\n(A) red\n(B) blue\n" in prompt
    assert "Reference answer:\nB\n" in prompt
    assert "x{blue}\n" in prompt and "x" * 8001 not in prompt
