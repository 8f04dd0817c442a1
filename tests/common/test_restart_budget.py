import itertools

from common.restart_budget import RestartBudget


def test_a_budget_grants_restarts_with_longer_and_longer_pauses_and_renews_itself() -> None:
    budget = RestartBudget(3, period_s=100)
    assert [budget.pause_before_next(now) for now in (0, 1, 2)] == [1, 2, 4]
    assert budget.pause_before_next(99) is None
    assert budget.pause_before_next(100.5) == 4  # the first is forgotten


def test_no_restarts_are_none() -> None:
    assert RestartBudget(0).pause_before_next(0) is None


def test_pauses_begin_and_end_where_they_are_told() -> None:
    budget = RestartBudget(10**6, longest_pause_s=5, first_pause_s=0.5)
    pauses = [budget.pause_before_next(0) for _ in range(2000)]
    assert pauses[:4] == [0.5, 1, 2, 4] and set(pauses[4:]) == {5}


def test_what_is_refused_does_not_count() -> None:
    budget = RestartBudget(2, period_s=10)
    for now in (0, 5, 6, 7, 8, 9):
        budget.pause_before_next(now)
    assert budget.used(9) == 2
    assert budget.used(10) == 1, "a period later it is forgiven"
    assert budget.used(15) == 0


def test_never_more_than_the_budget_in_any_period() -> None:
    budget, granted = RestartBudget(3, period_s=10), []
    for now in itertools.takewhile(lambda time: time < 100, itertools.count(step=0.7)):
        if budget.pause_before_next(now) is not None:
            granted.append(now)
    assert len(granted) > 20
    assert all(last - first >= 10 for first, last in zip(granted, granted[3:], strict=False))


def test_deaths_whose_cause_is_gone_are_forgiven():
    budget = RestartBudget(2)
    assert [budget.pause_before_next(float(now)) for now in range(3)] == [1.0, 2.0, None]
    budget.forgive()
    assert budget.used(3.0) == 0 and budget.pause_before_next(3.0) == 1.0
