import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.tracing.clocks import Bounds

delays = st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 5.0)), min_size=1, max_size=20)


@given(st.floats(-1000.0, 1000.0), delays)
def test_the_true_difference_lies_between_the_bounds(difference, pairs):
    """A message is never there before it was sent."""
    bounds = Bounds()
    for number, (there, back) in enumerate(pairs):
        leased = 100.0 * number
        began, answered = leased + there, leased + 50.0
        bounds.not_before(began - difference, leased)
        bounds.not_after(answered - difference, answered + back)
    assert bounds.least - 1e-6 <= difference <= bounds.most + 1e-6
    if bounds.offset_s:
        assert abs(bounds.offset_s - difference) <= (bounds.most - bounds.least) / 2 + 1e-6
        assert "is moved by" in bounds.said("rollout-1")
    else:
        assert bounds.said("rollout-1") == ""


def test_clocks_that_may_agree_are_left_alone():
    bounds = Bounds()
    assert bounds.offset_s == 0.0
    bounds.not_before(1.0, 0.9)
    bounds.not_after(2.0, 1.999)  # within what the journal's own times may be late
    assert bounds.offset_s == 0.0


def test_a_clock_that_was_set_during_the_run_is_told():
    bounds = Bounds()
    bounds.not_before(0.0, 10.0)
    bounds.not_after(0.0, 4.0)
    assert bounds.offset_s == pytest.approx(7.0)
    assert "its clock was set" in bounds.said("rollout-0")


def test_one_side_alone_moves_as_little_as_it_must():
    bounds = Bounds()
    bounds.not_before(0.0, 3.0)
    assert bounds.offset_s == 3.0 and "one side" in bounds.said("rollout-0")
