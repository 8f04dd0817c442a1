"""Which response gives which reference answer: each rule, and faults found in other harnesses.

Holds common/scoring/.
"""

# ruff: noqa: RUF001  (full-width and Arabic characters are meant)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.scoring.answers import contradicts, is_correct
from deploy.quickstart.scenes import COLORS

RIGHT, WRONG = True, False


def check(response: str, reference: str, verdict: bool) -> None:
    assert is_correct(response, reference) is verdict, (response, reference)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("3", "3", RIGHT),
        ("3.0", "3", RIGHT),
        ("3", "3.00", RIGHT),
        ("03", "3", RIGHT),
        (".5", "0.5", RIGHT),
        ("1/2", "0.5", RIGHT),
        ("1½", "1.5", RIGHT),
        ("1,234", "1234", RIGHT),
        ("1234.5", "1,234.5", RIGHT),
        ("12\u202f345", "12345", RIGHT),
        ("3,5", "3.5", RIGHT),  # a decimal comma
        ("1e3", "1000", RIGHT),
        ("three", "3", RIGHT),
        ("There are three.", "3", RIGHT),
        ("The one on the left shows 3.", "3", RIGHT),
        ("30", "3", WRONG),
        ("3.1", "3", WRONG),
        ("0.33", "1/3", WRONG),
        ("1,234", "234", WRONG),
        ("10²", "102", WRONG),
        ("12:30", "30", WRONG),
        ("3-5", "5", WRONG),
        ("1.2.3", "3", WRONG),
        ("3/4/2020", "2020", WRONG),
        ("A12", "12", WRONG),
        ("7th", "7", WRONG),
        ("12:30", "12:30", RIGHT),
        ("It is 12:30.", "12:30", RIGHT),
        ("3-5 people", "3-5 people", RIGHT),
        ("1/0", "0", WRONG),
        ("9" * 10_000, "9", WRONG),
        ("1e999999999", "1", WRONG),
    ],
)
def test_numbers_are_compared_as_numbers(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("-3", "3", WRONG),
        ("3", "-3", WRONG),
        ("-3", "-3.0", RIGHT),
        ("\u22123", "-3", RIGHT),  # a minus sign
        ("minus 3", "-3", RIGHT),
        ("The temperature is -3.", "-3", RIGHT),
        ("The temperature is -3.", "3", WRONG),
        ("+3", "3", RIGHT),
        ("- 3 cars", "3", RIGHT),  # a list's dash
        ("item-3", "3", RIGHT),
    ],
)
def test_a_sign_is_part_of_its_number(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("50 %", "50%", RIGHT),
        ("50 percent", "50%", RIGHT),
        ("５０％", "50%", RIGHT),
        ("0.5", "50%", WRONG),
        ("50%", "0.5", WRONG),
        ("50", "50%", RIGHT),
        ("12 km", "12", RIGHT),
        ("12", "12 km", RIGHT),
        ("12km", "12 kilometres", RIGHT),
        ("12 m", "12 km", WRONG),
        ("12000 m", "12 km", WRONG),
        ("It is 12 km long", "12 km", RIGHT),
        ("$5", "5 dollars", RIGHT),
        ("€5", "$5", WRONG),
        ("5 M", "5 m", RIGHT),  # M is no unit that is known
        ("20 °C", "20 degrees celsius", WRONG),  # a limit: two words
        ("20℃", "20 celsius", RIGHT),
        ("3 cars", "3 dogs", WRONG),
        ("three cars", "3 cars", RIGHT),
        ("3", "3 cars", RIGHT),
        ("3 car", "3 cars", RIGHT),
    ],
)
def test_units_may_be_left_out_but_not_differ(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("not red", "red", WRONG),
        ("It is not red.", "red", WRONG),
        ("It isn't red", "red", WRONG),
        ("red", "not red", WRONG),
        ("It is not red", "not red", RIGHT),
        ("red, not blue", "red", RIGHT),
        ("red, not blue", "blue", WRONG),
        ("not blue but red", "red", RIGHT),
        ("It is not 7", "7", WRONG),
        ("7, not 8", "7", RIGHT),
        ("7, not 8", "8", WRONG),
        ("not 8 but 7", "7", RIGHT),
        ("more than 7", "7", WRONG),
        ("красный", "не красный", WRONG),
        ("не красный", "красный", WRONG),
        ("ليس أحمر", "أحمر", WRONG),
        ("不是红色", "红色", WRONG),
        ("nicht rot", "rot", WRONG),
    ],
)
def test_a_denied_answer_is_not_given(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("7 or 8", "7", WRONG),
        ("7 or 8", "8", WRONG),
        ("between 7 and 8", "8", WRONG),
        ("red or blue", "blue", WRONG),
        ("A or B", "B", WRONG),
        ("(A) and (B)", "B", WRONG),
        ("Answer: A, B", "B", WRONG),
        ("1, 2, 3, 4", "4", RIGHT),  # counted
        ("red, white and blue", "red, white and blue", RIGHT),
    ],
)
def test_alternatives_state_nothing(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("Yes", "yes", RIGHT),
        ("Yes.", "yes", RIGHT),  # wrong in lmms-eval 0.7.3
        ("no", "yes", WRONG),
        ("yes", "no", WRONG),
        ("Yes, there is no car.", "yes", RIGHT),
        ("Yes, there is no car.", "no", WRONG),
        ("No, there is a car.", "no", RIGHT),
        ("There is no car.", "no", RIGHT),
        ("Yes. Actually, no.", "no", RIGHT),
        ("I have no doubt: yes", "yes", RIGHT),
        ("I know", "no", WRONG),
        ("There is a car.", "yes", WRONG),  # undecided
        ("No parking", "No smoking", WRONG),
        ("нет", "да", WRONG),
        ("Да, это машина", "да", RIGHT),
        ("不是", "是", WRONG),
        ("是的", "是", RIGHT),
        ("是红色", "是", WRONG),  # a description
        ("لا", "نعم", WRONG),
        ("Sí.", "sí", RIGHT),
    ],
)
def test_yes_and_no_are_told_apart(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize("reference", ["B", "(B)", "B.", "b", "(b)", "Option B", "B. red car"])
@pytest.mark.parametrize(
    "response",
    [
        *("B", "b", "(B)", "(b).", "B.", "**B**", "B) red car", "B. red car", "b) red car"),
        *("The answer is (B).", "the answer is b", "Answer: B", "Answer:\n\nB. red car"),
        *("Answer: B\n\nThe car on the left, a C-class, is red.", "It must be B", "Option B is it"),
        *("<answer>B</answer>", "<answer> (B) red car", "\\boxed{B}", "$\\boxed{\\text{B}}$"),
        *("<think>A? No, C.</think>B", "B, not C", "not C; it is B", "A is wrong, so B."),
        *("A. blue car\nB. red car\nC. van\nThe answer is B.", "（Ｂ）", "答案是B", "选B"),
        *("(A) is wrong, (B) is right", "Ответ: B", "A. It looks blue... Answer: B"),
        *("B. The sign shows vitamin C", "The correct option is B", "B\nA car is on the left."),
    ],
)
def test_the_chosen_option_is_found(response, reference):
    assert is_correct(response, reference)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("Answer: D", "A", WRONG),  # first capital: lmms-eval 0.7.3 on V* and MME-RealWorld
        ("Answer: D", "D", RIGHT),
        ("Based on the image, the answer is C", "C", RIGHT),
        ("Based on the image, the answer is C", "B", WRONG),
        ("Considering the sign, (D).", "C", WRONG),
        ("The answer is (B)", "T", WRONG),  # first letter: its CV-Bench
        ("A car is on the left", "A", WRONG),
        ("a", "A", RIGHT),
        ("a red car", "A", WRONG),
        ("The answer is a red car", "A", WRONG),
        ("I think so", "I", WRONG),
        ("I think it is C", "C", RIGHT),
        ("I think it is A", "A", RIGHT),
        ("I think (A)", "I", WRONG),
        ("A is correct", "A", RIGHT),
        ("It isn't A", "A", WRONG),
        ("not (B)", "B", WRONG),
        ("A is wrong", "A", WRONG),
        ("A. blue\nB. red\nC. van", "C", WRONG),  # the options, and no choice
        ("<think>The answer is B", "B", WRONG),  # cut while it thinks
        ("the car(s)", "s", WRONG),
        ("U.S.", "S", WRONG),
        ("red car", "B. red car", RIGHT),
        ("A. red car", "B. red car", WRONG),
        ("blue car", "B. red car", WRONG),
        ("red car", "B", WRONG),  # the options are not known here
        ("J. K. Rowling", "J. K. Rowling", RIGHT),
        ("C++", "C#", WRONG),
    ],
)
def test_letters_of_words_are_no_options(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("Red.", "red", RIGHT),
        ("a red car", "The red car", RIGHT),
        ("It is dark red", "dark red", RIGHT),
        ("bright red", "dark red", WRONG),
        ("The colour of the car is red.", "red", RIGHT),
        ("red car", "red", WRONG),
        ("STRASSE", "Straße", RIGHT),
        ("twenty-one", "twenty one", RIGHT),
        ("don't walk", "don\u2019t walk", RIGHT),
        ("Answer: St. Louis", "St. Louis", RIGHT),
        ("Answer: red. The car is parked", "red", RIGHT),
        ("The answer is 7. There are 3 on the left.", "7", RIGHT),
        ("The first answer is 3. The final answer is 7.", "7", RIGHT),
        ("The first answer is 3. The final answer is 7.", "3", WRONG),
        ("on the left", "left", RIGHT),
        ("left", "on the left", WRONG),
        ("", "red", WRONG),
        ("", "", WRONG),
        ("?!", "red", WRONG),
        ("", "?", WRONG),
        ("?", "?", RIGHT),
        ("+", "+", RIGHT),
        ("+", "-", WRONG),
        ("👍", "👎", WRONG),
    ],
)
def test_words_are_compared_without_case_articles_and_punctuation(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("这辆车是红色的。", "红色", RIGHT),
        ("红色的", "红色", RIGHT),
        ("粉红", "红", WRONG),
        ("蓝色", "红色", WRONG),
        ("答案：红色", "红色", RIGHT),
        ("７", "7", RIGHT),
        ("٣", "3", RIGHT),
        ("٣٫٥", "3.5", RIGHT),
        ("显示7", "7", RIGHT),
        ("车は赤です", "赤", RIGHT),
        ("السيارة حمراء", "حمراء", RIGHT),
        ("حمراء", "زرقاء", WRONG),
        ("Машина КРАСНАЯ", "красная", RIGHT),
        ("cafe\u0301", "café", RIGHT),
        ("cafe", "café", WRONG),
        ("की", "का", WRONG),  # they differ in a vowel sign
        ("สีแดง", "สีแดง", RIGHT),
        ("สีแดง", "สีดำ", WRONG),
        ("ﬁsh", "fish", RIGHT),
    ],
)
def test_other_scripts_are_read(response, reference, verdict):
    check(response, reference, verdict)


@pytest.mark.parametrize(
    "response, reference, does",
    [
        ("(C)", "B", True),
        ("(B)", "B", False),
        ("Hard to tell", "B", False),
        ("No.", "yes", True),
        ("Perhaps.", "yes", False),
        ("6", "5", True),
        ("5.0", "5", False),
        ("Several", "5", False),
        ("blue", "red", False),  # rules do not know colours
        ("", "5", False),
        ("<think>6", "5", False),
        ("The red tag shows 4.", "The red tag shows 7.", True),
        ("The red tag shows 7.", "The red tag shows 7.", False),
        ("The blue tag shows 4.", "The red tag shows 7.", False),  # perhaps another tag
        ("There are cars.", "There are 3 cars.", False),
        ("There are 4 cars.", "There are 3 cars.", True),
    ],
)
def test_only_what_is_of_the_references_kind_contradicts_it(response, reference, does):
    assert contradicts(response, reference) is does


@given(st.text(max_size=40), st.sampled_from(["B", "yes", "5", "red", "It shows 5."]))
def test_nothing_is_correct_and_contradicts(response, reference):
    assert not (is_correct(response, reference) and contradicts(response, reference))


@pytest.mark.parametrize(
    "response, reference, verdict",
    [
        ("Yes.\n\nNo other cars are there.", "yes", RIGHT),
        ("No cars are there.", "no", RIGHT),
        ("B because A and C are wrong", "B", RIGHT),
        ("A and C are wrong", "C", WRONG),
    ],
)
def test_what_stands_alone_or_is_denied_together_is_told(response, reference, verdict):
    check(response, reference, verdict)


def test_a_response_that_repeats_itself_is_judged():
    for unit in ("A, B, ", "(A) is red. ", "red, ", "yes, no ", "1, 2, ", "not A "):
        check(unit * 2_000 + "\nAnswer: C", "C", RIGHT)
        assert is_correct(unit * 2_000, "3 cars") is False


@pytest.mark.parametrize("said", range(10))
@pytest.mark.parametrize("true", range(10))
def test_the_quickstarts_sentences_are_judged_by_their_digit(said, true):
    for colour in COLORS:
        sentence = f"The {colour} tag shows {true}."
        for response in (f"The {colour} tag shows {said}.", str(said), f"It is {said}"):
            check(response, sentence, said == true)
            check(response, str(true), said == true)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_judged_and_without_words_nothing_is_right(response, reference):
    assert is_correct(response, reference) in (True, False)
    assert not is_correct(" \n", reference)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_are_right_exactly_when_equal(said, true):
    for response in (f"{said}", f"{said:,}", f"{said}.0", f"It is {said}.", f"Answer: {said}"):
        check(response, str(true), said == true)
        check(response, str(said), RIGHT)


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"))
def test_letters_are_right_exactly_when_equal(said, true):
    for response in (said, f"({said})", f"The answer is {said}.", f"{said.lower()}) it"):
        check(response, true, said == true)
