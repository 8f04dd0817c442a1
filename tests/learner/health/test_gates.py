import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import HealthSection
from common.errors import CheckpointError
from learner.health.gates import ACTIONS, HealthGates, Verdict

DIVERGENCE = "learner/divergence_nats"
ENTROPY = "learner/entropy_nats"
LENGTH = "learner/response_mean_tokens"
MISMATCH = "learner/mismatch_kl_nats"
ACCURACY = "evaluation/full_accuracy"
HEALTHY = {DIVERGENCE: 0.1, ENTROPY: 1.0, LENGTH: 160.0, MISMATCH: 0.001}
BAD = {DIVERGENCE: 0.3, ENTROPY: 0.1, LENGTH: 500.0, MISMATCH: 0.2}
NAMES = {DIVERGENCE: "divergence", ENTROPY: "entropy", LENGTH: "length", MISMATCH: "mismatch"}

finite = st.floats(0, 1e6)
anything = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
rows = st.lists(st.dictionaries(st.sampled_from([*HEALTHY, ACCURACY]), anything), max_size=40)
sections = st.builds(
    HealthSection,
    action=st.sampled_from(["off", "warn", "pause", "roll_back", "stop"]),
    patience=st.integers(1, 4),
    warmup_steps=st.integers(0, 4),
    max_roll_backs=st.integers(0, 3),
)


def gates(**fields) -> HealthGates:
    return HealthGates(HealthSection(**fields))


def looks(watched: HealthGates, *metrics: dict[str, float], first: int = 1) -> list[Verdict]:
    return [watched.look(first + number, row) for number, row in enumerate(metrics)]


def warmed(key: str = LENGTH, value: float = 100.0, **fields) -> HealthGates:
    """Gates whose baseline of one figure stands after step 2."""
    watched = gates(warmup_steps=2, **fields)
    looks(watched, {key: value}, {key: value})
    return watched


# ---- when a gate acts ----------------------------------------------------------------------------
@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.tuples(*[st.floats(0.5, 1.0)] * 5), min_size=1, max_size=30),
)
def test_no_gate_acts_on_figures_within_bounds(patience, warmup_steps, shares):
    # Any two values of a figure are less than a factor of 2 apart: no growth and no shrinking.
    watched = gates(patience=patience, warmup_steps=warmup_steps, action="stop")
    for step, (divergence, entropy, length, mismatch, accuracy) in enumerate(shares, 1):
        metrics = {
            DIVERGENCE: 0.2 * divergence,
            ENTROPY: 3 * entropy,
            LENGTH: 400 * length,
            MISMATCH: 0.1 * mismatch,
            ACCURACY: 0.8 + 0.05 * (2 * accuracy - 1),
        }
        verdict = watched.look(step, metrics)
        assert verdict.action == "none" and verdict.reasons == () and verdict.since is None


@given(st.sampled_from(sorted(BAD)), st.integers(1, 5), st.integers(0, 4), st.integers(0, 4))
def test_a_gate_acts_once_and_exactly_when_patience_is_used_up(key, patience, warmup, lapses):
    watched = gates(patience=patience, warmup_steps=warmup)
    step = 0

    def look(metrics: dict[str, float]) -> Verdict:
        nonlocal step
        step += 1
        return watched.look(step, metrics)

    for _ in range(max(1, warmup)):
        assert look(HEALTHY).action == "none"
    for _ in range(lapses):  # one look short of patience, again and again
        for _ in range(patience - 1):
            assert look(HEALTHY | {key: BAD[key]}).action == "none"
        assert look(HEALTHY).action == "none"
    for _ in range(2):
        first = step + 1
        verdicts = [look(HEALTHY | {key: BAD[key]}) for _ in range(patience + 3)]
        expected = ["none"] * (patience - 1) + ["warn"] + ["none"] * 3
        assert [verdict.action for verdict in verdicts] == expected
        (reason,) = verdicts[patience - 1].reasons
        assert f"for {patience} step" in reason
        assert verdicts[patience - 1].since == first
        assert look(HEALTHY).action == "none"  # it may act again after this


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", [*HEALTHY, ACCURACY])
def test_a_value_that_is_not_finite_is_out_of_bounds_even_in_the_warm_up(key, value):
    watched = gates(patience=2, warmup_steps=5)
    first, second = looks(watched, {key: value}, {key: value})
    assert (first.action, second.action) == ("none", "warn")
    assert f" is {value} (health." in second.reasons[0]


def test_values_that_are_not_finite_stay_out_of_the_baseline():
    watched = gates(patience=9, warmup_steps=2)
    verdicts = looks(watched, *({LENGTH: v} for v in (10, math.nan, 30, 60)))
    assert verdicts[-1].figures["health/length_ratio"] == 3


def test_the_baseline_is_the_mean_of_the_warm_up_whose_steps_are_not_judged():
    watched = gates(patience=1, warmup_steps=3)
    verdicts = looks(watched, *({LENGTH: v} for v in (10, 20, 90)))
    assert [v.action for v in verdicts] == ["none"] * 3
    assert all("health/length_ratio" not in v.figures for v in verdicts)
    at_bound, above = looks(watched, {LENGTH: 100}, {LENGTH: 100.5}, first=4)
    assert (at_bound.action, above.action) == ("none", "warn")
    assert at_bound.figures["health/length_ratio"] == 2.5


def test_warmup_steps_0_takes_the_first_value_for_the_baseline():
    _, verdict = looks(gates(patience=1, warmup_steps=0), {LENGTH: 10}, {LENGTH: 26})
    assert verdict.figures["health/length_ratio"] == pytest.approx(2.6)
    assert verdict.action == "warn"


def test_a_baseline_of_0_bounds_nothing():
    watched = warmed(DIVERGENCE, 0.0, patience=1)
    verdict = watched.look(3, {DIVERGENCE: 5.0})
    assert verdict.action == "none" and "health/divergence_ratio" not in verdict.figures


def test_an_absent_figure_neither_counts_nor_breaks_the_row():
    watched = warmed(patience=2)
    verdicts = looks(watched, {LENGTH: 900}, {}, {LENGTH: 900}, first=3)
    assert [v.action for v in verdicts] == ["none", "none", "warn"]


def test_a_step_without_responses_says_nothing_about_their_length():
    watched = gates(patience=1, warmup_steps=2)
    looks(watched, {LENGTH: 0}, {LENGTH: 10}, {LENGTH: 0}, {LENGTH: 10})
    assert watched.look(5, {LENGTH: 20}).figures["health/length_ratio"] == 2


# ---- accuracy ------------------------------------------------------------------------------------
@pytest.mark.parametrize("patience, needed", [(1, 1), (2, 2), (5, 2)])
def test_accuracy_needs_two_low_measurements_at_most(patience, needed):
    watched = gates(patience=patience)
    looks(watched, {ACCURACY: 0.6}, {ACCURACY: 0.8}, {ACCURACY: 0.75})
    actions = []
    for step in range(10, 20, 2):  # training rows in between do not count
        watched.look(step, HEALTHY)
        actions.append(watched.look(step, {ACCURACY: 0.74}).action)
    assert actions == ["none"] * (needed - 1) + ["warn"] + ["none"] * (5 - needed)


def test_accuracy_is_compared_with_its_best():
    watched = gates(patience=1)
    values = (0.5, 0.9, 0.86, 0.5)
    *_, verdict = looks(watched, *({ACCURACY: v} for v in values))
    assert verdict.action == "warn"
    assert verdict.figures["health/accuracy_ratio"] == pytest.approx(0.5 / 0.9)
    assert verdict.reasons == (
        "full-image accuracy 0.5 is 0.4 below its best of 0.9 (health.accuracy_drop = 0.05) for "
        "1 measurement",
    )


# ---- what it says --------------------------------------------------------------------------------
def test_reasons_name_figure_value_bound_and_key():
    watched = warmed(LENGTH, 158, patience=3)
    *_, verdict = looks(watched, *[{LENGTH: 412}] * 3, first=3)
    assert verdict.reasons == (
        "response length 412 tokens is 2.61 times its baseline of 158 (health.length_growth = 2.5) "
        "for 3 steps",
    )
    *_, verdict = looks(warmed(ENTROPY, 1.5, patience=1), {ENTROPY: 0.15}, first=3)
    assert verdict.reasons == (
        "student entropy 0.15 nats is 0.1 times its baseline of 1.5 (health.entropy_shrink = 0.2) "
        "for 1 step",
    )
    *_, verdict = looks(gates(patience=1), {MISMATCH: 0.25})
    assert verdict.reasons == (
        "KL between rollout and learner 0.25 nats is above its bound (health.mismatch_kl_nats = "
        "0.1) for 1 step",
    )
    assert verdict.figures["health/mismatch_ratio"] == 2.5


def test_gates_that_act_together_give_one_verdict_with_the_earliest_step():
    watched = gates(patience=3, warmup_steps=1, action="roll_back")
    looks(watched, HEALTHY, HEALTHY | {ACCURACY: 0.9}, {LENGTH: 500.0}, {LENGTH: 500.0})
    watched.look(4, {ACCURACY: 0.1})
    verdict = watched.look(5, {LENGTH: 500.0, ACCURACY: 0.1})
    assert verdict.action == "roll_back"
    assert [reason.split(" ")[0] for reason in verdict.reasons] == ["response", "full-image"]
    assert verdict.since == 3
    assert watched.roll_backs == 1


# ---- actions -------------------------------------------------------------------------------------
@pytest.mark.parametrize("action", ["warn", "pause", "roll_back", "stop"])
def test_the_configured_action_is_taken(action):
    verdict = warmed(patience=1, action=action).look(3, {LENGTH: 900})
    assert verdict.action == action
    assert verdict.figures["health/action"] == ACTIONS.index(action)


def test_an_alarm_lasts_until_the_figure_is_in_bounds():
    watched = gates(patience=2, warmup_steps=1)
    alarms = []
    for step, bad in enumerate((0, 1, 1, 1, 0, 1), 1):
        watched.look(step, BAD if bad else HEALTHY)
        alarms.append(watched.alarms)
    every = ("divergence", "entropy", "length", "mismatch")
    assert alarms == [(), (), every, every, (), ()]


@pytest.mark.parametrize(
    "action, taken", [("warn", "warn"), ("pause", "warn"), ("roll_back", "warn"), ("stop", "stop")]
)
def test_a_mismatch_warns_unless_the_run_is_to_stop(action, taken):
    assert gates(patience=1, action=action).look(1, {MISMATCH: 9.0}).action == taken


@pytest.mark.parametrize("action", ["warn", "pause", "roll_back", "stop"])
def test_one_odd_sample_is_named_at_once_and_ends_nothing(action):
    watched = gates(patience=3, action=action)
    verdict = watched.look(1, {MISMATCH: 0.01, "learner/mismatch_kl_outlier_nats": 0.4}, "photo-17")
    assert verdict.action == "warn"
    assert verdict.reasons == (
        "KL between rollout and learner of a sample 0.4 nats is above its bound "
        "(health.sample_mismatch_kl_nats = 0.1) for 1 step: sample photo-17",
    )


@given(rows)
def test_off_says_nothing(metrics):
    watched = gates(action="off", patience=1, warmup_steps=0)
    assert all(v == Verdict("none", (), {}, None) for v in looks(watched, *metrics))


@pytest.mark.parametrize("key", [*NAMES, ACCURACY])
def test_a_bound_of_none_turns_its_gate_off(key):
    off = {
        DIVERGENCE: "divergence_growth",
        ENTROPY: "entropy_shrink",
        LENGTH: "length_growth",
        ACCURACY: "accuracy_drop",
        MISMATCH: "mismatch_kl_nats",
    }[key]
    watched = gates(patience=1, warmup_steps=1, **{off: None})
    verdicts = looks(watched, {key: 1.0}, {key: 1e-6}, {key: 1e6}, {key: math.nan})
    assert all(v.action == "none" and v.figures == {"health/action": 0} for v in verdicts)


@given(sections, rows, st.data())
def test_never_more_roll_backs_than_allowed_then_a_stop(section, metrics, data):
    watched = HealthGates(section)
    step, asked = 0, 0
    for row in metrics:
        step += 1
        verdict = watched.look(step, row)
        if verdict.action == "roll_back":
            asked += 1
            assert 1 <= verdict.since <= step
            step = data.draw(st.integers(0, verdict.since - 1))
            watched.undo_after(step)
        if verdict.action == "stop":
            if section.action == "roll_back":
                assert asked == section.max_roll_backs
                assert f"health.max_roll_backs = {asked}" in verdict.reasons[-1]
            break
        assert asked == watched.roll_backs <= section.max_roll_backs


def test_after_a_roll_back_the_gates_are_armed_again_and_remember_their_baselines():
    watched = warmed(patience=2, action="roll_back", max_roll_backs=1)
    verdicts = looks(watched, {LENGTH: 900}, {LENGTH: 900}, first=3)
    assert verdicts[-1] == Verdict(
        "roll_back", verdicts[-1].reasons, {"health/length_ratio": 9.0, "health/action": 3}, 3
    )
    watched.undo_after(2)
    verdicts = looks(watched, {LENGTH: 900}, {LENGTH: 900}, first=3)
    assert [v.action for v in verdicts] == ["none", "stop"]
    assert verdicts[-1].reasons[-1] == (
        "the run has been rolled back 1 times (health.max_roll_backs = 1)"
    )


def test_a_resume_without_undone_steps_keeps_the_row():
    watched = warmed(patience=2)
    watched.look(3, {LENGTH: 900})
    watched.undo_after(3)
    assert watched.look(4, {LENGTH: 900}).action == "warn"


def test_a_resume_forgets_what_was_held_against_undone_steps():
    watched = warmed(patience=2)
    watched.look(3, {LENGTH: 900})
    watched.undo_after(2)
    verdicts = looks(watched, {LENGTH: 900}, {LENGTH: 900}, first=3)
    assert [v.action for v in verdicts] == ["none", "warn"]


# ---- state ---------------------------------------------------------------------------------------
def same(one: Verdict, other: Verdict) -> bool:
    return repr(one) == repr(other)  # nan is not equal to itself


@given(sections, rows, rows)
def test_the_same_looks_give_the_same_verdicts_also_through_json(section, before, after):
    one, other, resumed = (HealthGates(section) for _ in range(3))
    for step, row in enumerate(before, 1):
        assert same(one.look(step, row), other.look(step, row))
    state = one.state()
    resumed.restore(json.loads(json.dumps(state, allow_nan=False)))
    assert resumed.state() == state
    for step, row in enumerate(after, len(before) + 1):
        verdict = one.look(step, row)
        assert same(verdict, other.look(step, row))
        assert same(verdict, resumed.look(step, row))
    assert one.state() == other.state() == resumed.state()


def test_a_gate_that_was_off_when_the_state_was_kept_begins_with_a_new_baseline():
    old = gates(length_growth=None, warmup_steps=1)
    looks(old, HEALTHY, HEALTHY)
    new = gates(patience=1, warmup_steps=1)
    new.restore(old.state())
    assert new.look(3, {LENGTH: 900, DIVERGENCE: 0.2}).action == "none"
    assert new.look(4, {LENGTH: 2400}).action == "warn"


@pytest.mark.parametrize(
    "change, where",
    [
        ({"roll_backs": -1}, "roll_backs"),
        ({"step": "soon"}, "step"),
        ({"more": 1}, "more"),
        ({"tracks": {"length": {"reference": math.nan}}}, "tracks.length.reference"),
    ],
)
def test_a_damaged_state_is_refused(change, where):
    watched = warmed()
    before = watched.state()
    with pytest.raises(CheckpointError, match=f"health gates: {where}: .*Fix: "):
        watched.restore(before | change)
    assert watched.state() == before
