"""How replies are understood, and the faults of other harnesses that ours does not have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.evaluation.verdicts import of_choice, of_open, of_yes_no
from tests.rollout.evaluation.replies import CHOICES, LIMITS, OF_TWO, OPTIONS, YES_OR_NO

WINGS = (("A", "Open"), ("B", "Closed"))


def said(reply: str, options=OPTIONS) -> str | None:
    return of_choice(options, "A", reply).said


@pytest.mark.parametrize("reply", CHOICES, ids=lambda reply: reply.form)
def test_a_choice_is_what_a_reader_takes_it_for(reply):
    assert said(reply.text) == reply.truth


@pytest.mark.parametrize("reply, read", LIMITS)
def test_the_limits_are_what_they_are_said_to_be(reply, read):
    assert said(reply.text) == read != reply.truth


@pytest.mark.parametrize("reply", OF_TWO, ids=lambda reply: reply.form)
def test_a_choice_of_two_is_what_a_reader_takes_it_for(reply):
    assert said(reply.text, WINGS) == reply.truth


@pytest.mark.parametrize("reply", YES_OR_NO, ids=lambda reply: reply.form)
def test_a_verdict_is_what_a_reader_takes_it_for(reply):
    assert of_yes_no("yes", reply.text).said == reply.truth


@pytest.mark.parametrize("reply", [*CHOICES, *OF_TWO])
@pytest.mark.parametrize("answer", "ABCD")
def test_a_reply_is_right_exactly_when_it_says_the_answer(reply, answer):
    outcome = of_choice(OPTIONS, answer, reply.text).outcome
    if (read := said(reply.text)) is None:
        assert outcome == "undecided"
    else:
        assert outcome == ("right" if read == answer else "wrong")


@given(st.text(max_size=60), st.sampled_from("ABCD"))
def test_any_text_gets_one_verdict(reply, answer):
    assert of_choice(OPTIONS, answer, reply).outcome in ("right", "wrong", "undecided")
    assert of_yes_no("no", reply).outcome in ("right", "wrong", "undecided")
    assert of_open("red", reply).outcome in ("right", "wrong", "undecided")


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "Answer: {}", "It must be {}."]))
def test_every_option_can_be_chosen(letter, form):
    assert said(form.format(letter)) == letter


# ---- faults of lmms-eval 0.7.3 -------------------------------------------------------------------
def test_lmms_vstar_a_capital_at_the_start_of_a_word_is_no_option():
    assert said("Based on the image, the answer is C") == "C"


def test_lmms_cv_bench_the_first_letter_of_a_sentence_is_no_option():
    assert said("The answer is (B)") == "B"
    assert said("The answer is (B)", (("A", "1"), ("B", "2"), ("T", "3"))) == "B"


def test_lmms_pope_a_full_stop_does_not_make_yes_wrong():
    assert of_yes_no("yes", "Yes.").outcome == "right"


def test_lmms_mme_realworld_the_first_capital_of_a_sentence_is_no_option():
    assert said("Actually, I think it is C.") == "C"
    assert said("CAN NOT SAY") is None


@pytest.mark.parametrize("reply", ["", "(", ")", "  "])
def test_lmms_mme_realworld_what_every_choice_contains_is_no_option(reply):
    assert said(reply) is None  # contained in "(A)", hence A there: an empty reply as well


def test_lmms_mmvp_a_letter_at_the_end_of_a_word_is_no_option():
    assert said("I see a panda", WINGS) is None


def test_lmms_hrbench_an_unclear_reply_asks_nobody_and_is_undecided():
    assert of_choice(OPTIONS, "A", "It depends.").outcome == "undecided"


# ---- faults of Vision-OPD's harness -------------------------------------------------------------
def test_paper_the_a_of_answer_is_no_option():
    assert said("Answer: D") == "D"
    assert said("Answer the question: blue") == "B"


def test_paper_the_first_option_of_an_enumeration_is_no_choice():
    assert said("(A) red\n(B) blue\n(C) green\n(D) black\nThe best answer is (C)") == "C"
    assert said("(A) red\n(B) blue\n(C) green\n(D) black") is None


def test_paper_a_pope_reply_that_starts_with_a_capital_answer_is_read():
    assert of_yes_no("yes", "Answer: yes").outcome == "right"  # IndexError there
    assert of_yes_no("yes", "ANSWER").outcome == "undecided"


def test_paper_a_thought_is_not_judged_with_the_answer():
    assert said("<think>(A) seems right. Answer: A</think>\nAnswer: B") == "B"


def test_paper_the_last_answer_tag_counts():
    assert said("<answer>A</answer> No: <answer>B</answer>") == "B"


def test_paper_a_wrong_letter_gets_no_second_chance():
    assert of_choice(OPTIONS, "A", "B. It could be called red, too.").outcome == "wrong"


def test_paper_mmvp_the_article_a_is_no_option():
    assert said("It is a butterfly with closed wings", WINGS) == "B"


def test_a_letter_is_denied_together_with_others():
    assert said("The answer is B because A and C are wrong.") == "B"


def test_a_verdict_alone_goes_before_a_sentence_that_begins_with_no():
    assert of_yes_no("yes", "Yes.\n\nNo other objects are visible.").outcome == "right"
    assert of_yes_no("no", "No cars are visible.").outcome == "right"
    assert of_yes_no("no", "Yes. Actually, no.").outcome == "right"


def test_paper_a_number_after_a_chain_of_thought_is_found():
    reply = "There are 2 on the left and 3 on the right, so 2 + 3 = 5. The answer is 5."
    assert of_open("5", reply).outcome == "right"


def test_paper_a_reply_that_repeats_itself_is_read_to_its_end():
    for unit in ("A, B, ", "(A) is red. ", "red, ", "The answer is A\n", "yes, no ", "1, 2, "):
        endless = unit * 100_000
        assert said(f"{endless}\nThe answer is C.") == "C"
        assert of_yes_no("yes", f"{endless}\nAnswer: yes").said == "yes"
        assert of_open("7", f"{endless}\nAnswer: 7").outcome == "right"
        assert said("B. blue\n" + "The car stands there. " * 10_000) == "B"


# ---- open answers --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer, reply, outcome",
    [
        ("5", "There are five.", "right"),
        ("5", "There are 6.", "wrong"),
        ("5", "Several.", "undecided"),
        ("yes", "No.", "wrong"),
        ("yes", "Perhaps.", "undecided"),
        ("B", "(C)", "wrong"),
        ("B", "Hard to tell", "undecided"),
        ("a red car", "Red car", "right"),
        ("on the left", "left", "undecided"),  # a paraphrase, for rules
        ("red", "blue", "undecided"),  # an error, but rules do not know colours
        ("red", "", "undecided"),
        ("red", "<think>red", "undecided"),
    ],
)
def test_an_open_reply_is_wrong_only_if_it_states_another_of_its_kind(answer, reply, outcome):
    assert of_open(answer, reply).outcome == outcome


def test_an_open_reply_tells_what_was_understood():
    assert of_open("5", "<think>hm</think>Answer: **6** cats").said == "6 cats"
    assert of_open("5", "").said is None


# ---- an option by its text -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, reply, letter",
    [
        ((("A", "red"), ("B", "dark red")), "It is dark red.", "B"),
        ((("A", "red"), ("B", "dark red")), "The dark red one is there", "B"),
        ((("A", "red"), ("B", "dark red")), "It is red.", "A"),
        ((("A", "3"), ("B", "13")), "There are 13 of them", "B"),
        ((("A", "3"), ("B", "13")), "three", "A"),
        ((("A", "red"), ("B", "red")), "red", None),
        ((("A", "on the left"), ("B", "on the right")), "The dog is on the right side", "B"),
        ((("A", "yes"), ("B", "no")), "No, it is not.", "B"),
        ((("A", "红色"), ("B", "蓝色")), "这辆车是蓝色的", "B"),
        ((("A", ""), ("B", "")), "red", None),
        ((), "The answer is (F)", "F"),
        ((("B", "red"), ("C", "blue")), "The answer is (A)", "A"),  # the right one is always one
    ],
)
def test_the_only_option_that_is_given_is_chosen(options, reply, letter):
    assert said(reply, options) == letter
