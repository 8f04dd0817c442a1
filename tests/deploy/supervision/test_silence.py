"""A process that lives and is not heard: shown, and replaced when its time is up."""

from deploy.supervision.silence import SilenceWatch

LIMITS = {"rollout": 30.0, "learner": 600.0}


def test_a_lost_server_is_silent_and_then_overdue() -> None:
    watch = SilenceWatch(LIMITS)
    assert watch.look(["rollout-0", "learner-0"], {}) == []
    assert watch.look(["learner-0"], {"rollout-0": 21.0}) == []
    assert watch.silent_s == {"rollout-0": 21.0}
    assert watch.look(["learner-0"], {"rollout-0": 30.0}) == ["rollout-0"]
    assert watch.look(["learner-0"], {"rollout-0": 31.0}) == ["rollout-0"]


def test_one_that_comes_back_is_silent_no_more() -> None:
    watch = SilenceWatch(LIMITS)
    watch.look(["rollout-0"], {})
    watch.look([], {"rollout-0": 29.0})
    assert watch.look(["rollout-0"], {}) == [] and watch.silent_s == {}


def test_a_new_life_is_not_blamed_for_the_silence_of_the_one_before() -> None:
    """Its engine may take minutes to start, while the broker still counts the old one as lost."""
    watch = SilenceWatch(LIMITS)
    watch.look(["rollout-0"], {})
    assert watch.look([], {"rollout-0": 40.0}) == ["rollout-0"]
    watch.begin("rollout-0")
    assert watch.look([], {"rollout-0": 400.0}) == [] and watch.silent_s == {}
    watch.look(["rollout-0"], {})
    assert watch.look([], {"rollout-0": 40.0}) == ["rollout-0"]


def test_a_process_with_several_engines_lives_while_one_of_them_is_heard() -> None:
    watch = SilenceWatch(LIMITS)
    watch.look(["rollout-0.0", "rollout-0.1"], {})
    assert watch.look(["rollout-0.1"], {"rollout-0.0": 99.0}) == []
    assert watch.look([], {"rollout-0.0": 99.0, "rollout-0.1": 20.0}) == ["rollout-0"]


def test_a_learner_has_more_time_and_strangers_are_let_alone() -> None:
    watch = SilenceWatch(LIMITS)
    watch.look(["learner-0", "bench-1"], {})
    lost = {"learner-0": 599.0, "bench-1": 10.0**6, "rollout-9": 10.0**6}
    assert watch.look([], lost) == []
    assert watch.silent_s == {"learner-0": 599.0, "bench-1": 10.0**6}
    assert watch.look([], lost | {"learner-0": 600.0}) == ["learner-0"]
    assert watch.limit_s("bench-1") is None and watch.limit_s("learner-3") == 600.0
