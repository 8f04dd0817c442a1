"""Each benchmark's own figures, on verdicts that are made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.statistics import wilson
from rollout.evaluation.figures import Figure, Scored, mean, share
from rollout.evaluation.sets import SETS
from rollout.evaluation.verdicts import ReplyVerdict

R, W, U = "right", "wrong", "undecided"


def one(outcome, said=None, answer="A", **fields) -> Scored:
    return Scored(answer, fields, ReplyVerdict(outcome, said))


def values(name, *scored) -> dict[str, float]:
    return {key: figure.value for key, figure in SETS[name].figures(scored).items()}


def test_an_undecided_reply_is_not_right():
    figure = SETS["vstar"].figures([one(R), one(W), one(U), one(U)])["accuracy"]
    assert figure == Figure(0.25, 1, 4, *wilson(1, 4))


def test_accuracy_of_nothing_says_that_nothing_is_known():
    for name, published in SETS.items():
        figures = published.figures([])
        assert figures["accuracy"] == Figure(0.0, 0, 0, 0.0, 1.0), name


def test_every_headline_is_among_the_figures():
    fields = {"type": "2D", "source": "COCO", "task": "Count", "category": "Easy"}
    other = {**fields, "type": "3D"}
    for published in SETS.values():
        assert published.headline in published.figures([one(R, **fields), one(W, **other)])


def test_vstar_counts_by_category():
    spatial, direct = {"category": "relative_position"}, {"category": "direct_attributes"}
    figures = SETS["vstar"].figures([one(R, **spatial), one(W, **spatial), one(R, **direct)])
    assert figures["category = relative_position"] == share(1, 2)
    assert figures["category = direct_attributes"] == share(1, 1)
    assert figures["accuracy"] == share(2, 3)


def test_hrbench_has_the_flat_figure_and_that_of_the_option_orders():
    """The first order has three items here, so the two differ: 2 of 4, and (1/3 + 1)/2."""
    first, second = {"cycle_category": "0"}, {"cycle_category": "1"}
    got = values("hrbench-4k", one(R, **first), one(W, **first), one(W, **first), one(R, **second))
    assert got["accuracy"] == 0.5
    assert got["mean of option orders"] == pytest.approx(2 / 3)
    assert got["cycle_category = 0"] == pytest.approx(1 / 3)


def test_hrbench_tells_single_from_cross():
    got = values("hrbench-8k", one(R, category="single"), one(W, category="cross"))
    assert (got["category = single"], got["category = cross"]) == (1.0, 0.0)


def test_mmstar_has_the_flat_figure_and_the_mean_of_l2_categories():
    """lmms-eval's average is the latter, not to be compared with the paper's figure."""
    got = values(
        "mmstar",
        *[one(R, l2_category="geometry", category="math")] * 3,
        one(W, l2_category="statistical", category="math"),
    )
    assert got["accuracy"] == got["category = math"] == 0.75
    assert got["mean of l2 categories"] == 0.5


def test_mmvp_counts_questions_and_pairs_that_are_both_right():
    scored = [one(R, pair="1"), one(R, pair="1"), one(R, pair="2"), one(W, pair="2")]
    figures = SETS["mmvp"].figures([*scored, one(R, pair="3")])  # of the third one reply failed
    assert figures["accuracy"] == share(4, 5)
    assert figures["pairs"] == share(1, 2)


def test_cv_bench_has_the_papers_mean_and_the_benchmarks_own():
    fields = [("2D", "ADE20K"), ("2D", "COCO"), ("2D", "COCO"), ("2D", "COCO"), ("3D", "Omni3D")]
    outcomes = [R, W, W, R, R]
    scored = [one(o, type=t, source=s) for o, (t, s) in zip(outcomes, fields, strict=True)]
    got = values("cv-bench", *scored)
    assert got["accuracy"] == 3 / 5
    assert got["mean of 2D and 3D"] == (2 / 4 + 1) / 2
    assert got["official"] == pytest.approx(((1 + 1 / 3) / 2 + 1) / 2)


def test_cv_bench_means_are_left_out_where_a_part_has_no_item():
    assert "official" not in values("cv-bench", one(R, type="2D", source="COCO"))


def test_mme_realworld_counts_by_task_and_e_as_a_refusal():
    seen = {"part": "Perception", "category": "Perception/Monitoring"}
    thought = {"part": "Reasoning", "category": "Reasoning/Monitoring"}
    figures = SETS["mme-realworld"].figures(
        [one(R, "B", **seen), one(W, "E", **seen), one(W, "C", **thought), one(U, **thought)]
    )
    assert figures["refusals"] == share(1, 4)
    assert (
        figures["part = Perception"] == figures["category = Perception/Monitoring"] == share(1, 2)
    )
    assert figures["accuracy"] == share(1, 4)


def test_pope_counts_yes_of_the_replies():
    """Three yes are true; the replies say yes twice, once wrongly. lmms-eval counts the labels."""
    scored = [
        one(R, "yes", "yes"),
        one(W, "no", "yes"),
        one(U, None, "yes"),
        one(W, "yes", "no"),
        one(R, "no", "no"),
    ]
    figures = SETS["pope"].figures(scored)
    assert figures["accuracy"] == share(2, 5)
    assert figures["precision"] == share(1, 2)
    assert figures["recall"] == share(1, 3)  # an unread reply found nothing
    assert figures["F1"].value == pytest.approx(2 / (2 + 3))
    assert figures["yes"] == share(2, 5)


def test_pope_has_the_f1_of_each_sampling():
    scored = [one(R, "yes", "yes", category="random"), one(W, "yes", "no", category="popular")]
    got = values("pope", *scored)
    assert (got["F1, category = random"], got["F1, category = popular"]) == (1.0, 0.0)


def test_visualprobe_is_the_mean_of_three_parts():
    scored = [one(R, category="Easy"), one(R, category="Easy"), one(W, category="Hard")]
    got = values("visualprobe", *scored, one(U, category="Medium"))
    assert got["accuracy"] == 0.5
    assert got["mean of parts"] == pytest.approx(1 / 3)


# ---- means ---------------------------------------------------------------------------------------
def test_a_mean_of_one_part_has_its_interval():
    assert mean([share(3, 10)]).low == pytest.approx(wilson(3, 10)[0])
    assert mean([share(3, 10)]).high == pytest.approx(wilson(3, 10)[1])


def test_the_interval_of_a_mean_of_equal_parts_is_narrower_by_the_root_of_their_number():
    part, whole = share(50, 100), mean([share(50, 100)] * 4)
    assert whole.value - whole.low == pytest.approx((part.value - part.low) / 2)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=6))
def test_a_mean_lies_in_its_interval_and_both_in_0_to_1(counts):
    figure = mean([share(min(right, of), of) for right, of in counts])
    assert 0 <= figure.low <= figure.value + 1e-12 and figure.value - 1e-12 <= figure.high <= 1
