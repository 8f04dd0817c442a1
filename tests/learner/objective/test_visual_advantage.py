import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.objective.tokens import token_shares
from learner.objective.visual_advantage import (
    sequence_weights,
    token_multipliers,
    visual_advantages,
)

SHARE, MASS = 0.2, 0.5


def multipliers(*advantages: list[float], share: float = SHARE, mass: float = MASS):
    """Multipliers of responses with these advantages: the pixelated picture gives each -9 nats."""
    picture = [np.array(values) - 9.0 for values in advantages]
    return token_multipliers(picture, [np.full(len(a), -9.0) for a in advantages], share, mass)


def test_an_advantage_is_never_negative():
    found = visual_advantages(np.array([-1.0, -3.0, -0.5]), np.array([-2.5, -1.0, -0.5]))
    assert found.tolist() == [1.5, 0.0, 0.0]


def test_sequence_weights_are_a_softmax_of_z_scores():
    # means 1 and 3: mean 2, population std 1, z = -1 and 1
    low, high = np.exp(-1), np.exp(1)
    expected = [2 * low / (low + high), 2 * high / (low + high)]
    np.testing.assert_allclose(sequence_weights(np.array([1.0, 3.0])), expected, rtol=1e-15)
    np.testing.assert_allclose(expected, [0.23840584, 1.76159416], rtol=1e-7)


def test_the_top_fifth_gets_half_of_the_weight():
    (found,) = multipliers([0.0, 5.0, 1.0, 0.0, 2.0])  # one visual token of five
    np.testing.assert_allclose(found, [0.625, 2.5, 0.625, 0.625, 0.625])
    (found,) = multipliers([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])  # ceil(1.2) = 2 of six
    np.testing.assert_allclose(found, [1.5, 0.75, 0.75, 0.75, 0.75, 1.5])


def test_share_and_mass_are_taken_as_configured():
    (found,) = multipliers([4.0, 3.0, 2.0, 1.0], share=0.5, mass=0.9)
    np.testing.assert_allclose(found, [1.8, 1.8, 0.2, 0.2])


def test_a_share_that_is_whole_is_not_rounded_up():
    # 0.07 * 100 is 7.000000000000001 in floating point
    (found,) = multipliers([float(n) for n in range(100)], share=0.07)
    assert (found > 1).sum() == 7


def test_a_whole_group_by_hand():
    found = multipliers([2.0, 0.0], [6.0], [0.0, 0.0, 9.0])
    # means 1, 6, 3: mean 10/3, deviations -7/3, 8/3, -1/3, variance (49 + 64 + 1) / 27 = 38/9
    z = np.array([-7.0, 8.0, -1.0]) / np.sqrt(38.0)
    weights = 3 * np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(found[0], weights[0] * np.array([1.0, 1.0]))  # half to one of two
    np.testing.assert_allclose(found[1], weights[1] * np.array([1.0]))
    np.testing.assert_allclose(found[2], weights[2] * np.array([0.75, 0.75, 1.5]))


@pytest.mark.parametrize(
    "advantages",
    [
        [[0.0, 0.0, 0.0], [0.0]],  # the picture does not matter at all
        [[7.0]],  # one response of one token
        [[2.0, 2.0], [2.0]],  # no variance, neither within nor between
    ],
)
def test_without_a_difference_all_tokens_count_alike(advantages):
    for values in multipliers(*advantages):
        assert values.tolist() == [1.0] * len(values)


def test_rounding_noise_between_responses_is_no_evidence():
    assert sequence_weights(np.array([0.3, 0.3 + 1e-9])).tolist() == [1.0, 1.0]


def test_of_equal_advantages_the_earlier_token_is_visual():
    (found,) = multipliers([1.0, 0.0, 1.0, 0.0])
    assert found.argmax() == 0 and (found > 1).sum() == 1


def test_one_response_among_very_many_does_not_overflow():
    weights = sequence_weights(np.array([1e6] + [0.0] * 1023))
    assert np.isfinite(weights).all() and (weights > 0).all()
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("picture", "contrast", "message"),
    [
        ([], [], "without responses"),
        ([[]], [[]], "at least one"),
        ([[-1.0, -2.0]], [[-1.0]], "response 0 has log-probs of shapes"),
    ],
)
def test_what_cannot_be_scored_is_an_error(picture, contrast, message):
    with pytest.raises(ValueError, match=message):
        token_multipliers(
            [np.array(x) for x in picture], [np.array(x) for x in contrast], SHARE, MASS
        )


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("is_contrast", [False, True])
def test_what_is_not_finite_spoils_its_group_visibly(bad, is_contrast):
    picture, contrast = ([np.array([-1.0, -2.0]), np.array([-1.0])] for _ in range(2))
    (contrast if is_contrast else picture)[0][1] = bad
    found = token_multipliers(picture, contrast, SHARE, MASS)
    assert [len(values) for values in found] == [2, 1]
    assert all(np.isnan(values).all() for values in found)


@pytest.mark.parametrize("name", ["share", "mass"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_or_mass_outside_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"objective.visual_advantage_{name}"):
        multipliers([1.0, 2.0], **{name: value})


nats = st.floats(0, 30, allow_subnormal=False)
groups = st.lists(st.lists(nats, min_size=1, max_size=30), min_size=1, max_size=12)
fractions = st.floats(0.01, 0.99)


@given(groups, fractions, fractions)
def test_weights_are_positive_and_keep_the_scale_of_the_loss(group, share, mass):
    found = multipliers(*group, share=share, mass=mass)
    assert all((values > 0).all() for values in found)
    assert [len(values) for values in found] == [len(values) for values in group]
    lengths = torch.tensor([len(values) for values in found])
    shares = token_shares(lengths, "sequence_mean", len(found), int(lengths.sum()), torch.float64)
    assert float(shares.numpy() @ np.concatenate(found)) == pytest.approx(1, rel=1e-12)


@given(groups, fractions, fractions)
def test_the_visual_tokens_hold_their_mass(group, share, mass):
    for advantages, values in zip(group, multipliers(*group, share=share, mass=mass), strict=True):
        length = len(values)
        visual = np.ceil(share * length - 1e-9)
        if visual == length or len(set(np.array(advantages) - 9.0)) == 1:
            np.testing.assert_allclose(values, values[0])
            continue
        top = np.argsort(-(np.array(advantages) - 9.0 + 9.0), kind="stable")[: int(visual)]
        assert values[top].sum() / values.sum() == pytest.approx(mass)


@given(groups, st.randoms(use_true_random=False))
def test_the_order_of_responses_and_tokens_does_not_matter(group, random):
    group = [list(dict.fromkeys(round(v, 3) for v in values)) for values in group]  # no ties
    expected = multipliers(*group)
    order = random.sample(range(len(group)), len(group))
    tokens = [random.sample(range(len(values)), len(values)) for values in group]
    shuffled = [[group[i][t] for t in tokens[i]] for i in order]
    for i, values in zip(order, multipliers(*shuffled), strict=True):
        np.testing.assert_allclose(values, expected[i][tokens[i]], rtol=1e-6)
