import pytest

from broker.storage.frames import Record
from deploy.planning.journal_facts import facts_of

A, B, L = ("rollout-0", 1), ("rollout-1", 1), ("learner-0", 1)


def facts(*calls):
    return facts_of(Record(k, *call, 0) for k, call in enumerate(calls))


def join(at, owner, role="rollout"):
    return at, "join", (owner, role), None


def lease(at, owner, *groups, attempt=0):
    return at, "lease", (owner, b"r", 9, 0, 0, at), tuple((g, attempt) for g in groups)


def submit(at, owner, group, outcome="accepted", attempt=0):
    return at, "submit", (owner, group, attempt, (0, 0, 30, (3, 5))), outcome


def test_generations_with_the_company_they_had():
    found = facts(
        join(0.0, A), lease(1.0, A, "g0", "g1"), submit(3.0, A, "g0"), submit(5.0, A, "g1")
    )
    first, second = found.generations
    assert (first.begin_s, first.end_s, first.in_flight) == (1.0, 3.0, 2.0)
    assert second.in_flight == pytest.approx((2 * 2 + 1 * 2) / 4)
    assert first.lengths == (3, 5) and first.prompt_tokens == 30


def test_busy_time_is_with_any_group_in_flight():
    found = facts(
        join(0.0, A), join(0.0, B), lease(1.0, A, "g0"), submit(3.0, A, "g0"),
        lease(4.0, A, "g1"), submit(5.0, A, "g1"), (10.0, "leave", (B, "silent", "", 10.0), None),
    )  # fmt: skip
    assert found.busy == {"rollout-0": [(1.0, 3.0), (4.0, 5.0)]}
    assert found.busy_share(0.0, 10.0) == pytest.approx(3 / 20)
    assert found.busy_share(2.0, 3.0) == pytest.approx(1 / 2)
    assert found.busy_share(20.0, 30.0) is None


@pytest.mark.parametrize(
    "end",
    [
        (3.0, "give_back", (A, "g0", 0, "suspect", "", 3.0), False),
        (3.0, "lapse", (3.0,), ("g0",)),
        (3.0, "leave", (A, "silent", "", 3.0), ("g0",)),
        (3.0, "join", (("rollout-0", 2), "rollout"), None),
        (3.0, "doubt", (), None),
    ],
)
def test_leases_that_come_to_nothing(end):
    found = facts(join(0.0, A), lease(1.0, A, "g0"), end, submit(4.0, A, "g0", "fenced"))
    assert found.expired == 1 and not found.generations
    assert found.busy == {"rollout-0": [(1.0, 3.0)]}


def test_a_rewind_undoes_steps_and_leases():
    acknowledged = [(float(k), "acknowledge", (L, k, k, {}, 0), True) for k in (1, 2, 3)]
    found = facts(join(0.0, A), *acknowledged, lease(4.0, A, "g0"), (5.0, "rewind", (L, 1), 1))
    assert found.acknowledged_s == {1: 1.0} and found.expired == 1


def test_a_resumed_learner_that_undoes_nothing_ends_no_lease():
    found = facts(
        join(0.0, A), lease(1.0, A, "g0"), (2.0, "rewind", (L, 0), 0), submit(3.0, A, "g0")
    )
    assert len(found.generations) == 1 and found.expired == 0


def test_asked_again_a_lease_is_not_a_new_one():
    found = facts(join(0.0, A), lease(1.0, A, "g0"), lease(2.0, A, "g0"), submit(3.0, A, "g0"))
    assert found.generations[0].begin_s == 1.0


def test_takes_and_acknowledgements_by_step():
    found = facts(
        join(0.0, A),
        (1.0, "take", (L, 1, 0, 1), ()),
        (2.0, "take", (L, 1, 0, 1), (("g0", 0),)),
        (3.0, "acknowledge", (L, 1, 1, {}, 0), False),
        (4.0, "acknowledge", (L, 1, 1, {}, 1), True),
        (5.0, "serve", (A, 0, 1), None),
        (6.0, "serve", (B, 0, 1), None),
    )
    assert found.taken_s == {1: 2.0} and found.acknowledged_s == {1: 4.0}
    assert found.served_s == {1: 6.0}
