"""Replies of every form, with what a reader takes them to say: for the tests and for the oracle."""

from typing import NamedTuple


class Reply(NamedTuple):
    """One reply."""

    form: str  # what is special about it
    text: str
    truth: str | None  # what it says; None: nothing that can be told


OPTIONS = (("A", "red"), ("B", "blue"), ("C", "green"), ("D", "black"))
_LIST = "A. red\nB. blue\nC. green\nD. black"

CHOICES = (
    Reply("a letter", "B", "B"),
    Reply("in brackets", "(B)", "B"),
    Reply("a full stop", "B.", "B"),
    Reply("a small letter", "b", "B"),
    Reply("a small letter in brackets", "(b) blue", "B"),
    Reply("emphasis", "**B**", "B"),
    Reply("a dollar form", "$\\boxed{\\text{B}}$", "B"),
    Reply("letter and text", "B. blue", "B"),
    Reply("letter, then reasons", "B. The sign shows vitamin C.", "B"),
    Reply("a sentence", "The answer is (B).", "B"),
    Reply("a sentence without brackets", "The correct option is B", "B"),
    Reply("a marker", "Answer: B", "B"),
    Reply("a marker before D", "Answer: D", "D"),
    Reply("a tag", "<answer>B</answer>", "B"),
    Reply("boxed", "I see it. \\boxed{B}", "B"),
    Reply("a word that begins with B", "Based on the image, the answer is C", "C"),
    Reply("a word that begins with C", "Considering the sign, (D).", "D"),
    Reply("a word that begins with A", "Analysing both, it must be B", "B"),
    Reply("the article A", "A car stands on the left. The answer is C.", "C"),
    Reply("the option's text", "blue", "B"),
    Reply("a sentence with the option's text", "The car is blue.", "B"),
    Reply("the option's text inside a sentence", "It is a blue car that turns.", "B"),
    Reply("a text and a denied one", "It is blue, not red.", "B"),
    Reply("two texts", "It is red and blue.", None),
    Reply("the options, then a choice", f"{_LIST}\nThe answer is B.", "B"),
    Reply("the options, no choice", _LIST, None),
    Reply("a thought, then a letter", "<think>A? No, C.</think>B", "B"),
    Reply("the end of a thought, then a letter", "It may be A.</think>\n\nB", "B"),
    Reply("an unfinished thought", "<think>The answer is B", None),
    Reply("the last of two answers", "The first answer is A. The final answer is C.", "C"),
    Reply("a denied letter", "A is wrong, so B.", "B"),
    Reply("not this but that", "not (A) but (C)", "C"),
    Reply("two letters", "A or B", None),
    Reply("no answer", "I cannot tell from this picture.", None),
    Reply("an empty reply", "", None),
    Reply("a letter that is no option", "It shows vitamin K", None),
    Reply("Chinese", "最佳答案为：B", "B"),  # noqa: RUF001
)

# What our rules do not read as a reader does: (reply, what we read).
LIMITS = (
    (Reply("a letter, then another in brackets", "C. The bus (B) is behind.", "C"), "B"),
    (Reply("texts denied together", "Not red, green or black, so blue.", "B"), None),
    (Reply("a small letter after a colon", "The best choice: b", "B"), None),
    (Reply("two letters on two lines", "A\nB", None), "B"),
)

YES_OR_NO = (
    Reply("a word", "yes", "yes"),
    Reply("a capital", "No", "no"),
    Reply("a full stop", "Yes.", "yes"),
    Reply("emphasis", "**No**", "no"),
    Reply("a sentence", "Yes, there is a car in the image.", "yes"),
    Reply("yes, and then no", "Yes, there is no dog but a car.", "yes"),
    Reply("no, and then yes", "No, there is a dog, yes, but no car.", "no"),
    Reply("a sentence alone", "There is no car in the image.", "no"),
    Reply("a marker", "Answer: No", "no"),
    Reply("a sentence that ends with it", "The answer is yes.", "yes"),
    Reply("a thought before it", "<think>no, hm</think>yes", "yes"),
    Reply("a word that begins with no", "Nothing is known.", None),
    Reply("a word that holds no", "I know.", None),
    Reply("both", "Yes or no", None),
    Reply("no answer", "The image is too dark.", None),
    Reply("an empty reply", "", None),
)

OF_TWO = (  # a question with two options: Open, Closed
    *(reply for reply in CHOICES if reply.truth in ("A", "B") and "blue" not in reply.text),
    Reply("the option's text", "Closed", "B"),
    Reply("a sentence with the option's text", "The wings are open.", "A"),
    Reply("a small letter in brackets", "(a) Open", "A"),
    Reply("the article a", "It is a butterfly; (b).", "B"),
    Reply("no answer", "It is a butterfly.", None),
    Reply("an empty reply", "", None),
)
