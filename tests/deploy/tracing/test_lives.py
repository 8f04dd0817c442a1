import pytest

from broker.storage.frames import Record
from deploy.tracing.lives import GroupLife, LifePhase, Lives

A, B, L = ("rollout-0", 1), ("rollout-1", 1), ("learner-0", 1)


def lived(*calls) -> tuple[list[GroupLife], Lives]:
    """The lives that ended, and the reader before its end."""
    lives, ended = Lives(), []
    for number, call in enumerate(calls):
        ended += lives.read(Record(number, *call, 0))
    return ended, lives


def lease(at, owner, *groups, attempt=0):
    return at, "lease", (owner, b"r", 9, 0, 0, at), tuple((g, attempt) for g in groups)


def submit(at, owner, group, outcome="accepted", attempt=0):
    return at, "submit", (owner, group, attempt, (1, 2, 30, (3, 5))), outcome


def take(at, step, *groups, attempt=0):
    return at, "take", (L, step, 0, 1), tuple((group, attempt) for group in groups)


def acknowledge(at, step, refused=None):
    return at, "acknowledge", (L, step, step, refused or {}, 0), True


def test_a_group_is_leased_queued_and_trained():
    (life,), lives = lived(
        lease(1.0, A, "g"), submit(3.0, A, "g"), take(4.0, 2, "g"), acknowledge(6.0, 2)
    )
    assert (life.begin_s, life.submitted_s, life.taken_s, life.end_s) == (1.0, 3.0, 4.0, 6.0)
    assert (life.server, life.step, life.ending, life.tokens) == ("rollout-0", 2, "trained", 8)
    assert life.oldest_version == 1 and lives.acknowledged == 2
    assert lives.close() == [] and not any(lives.counts.values())


@pytest.mark.parametrize(
    ("call", "ending"),
    [
        ((3.0, "give_back", (A, "g", 0, "suspect", "no answer", 3.0), False), "given back: no"),
        ((3.0, "lapse", (3.0,), ("g",)), "lapsed"),
        ((3.0, "leave", (A, "silent", "", 3.0), ("g",)), "its server left: silent"),
        ((3.0, "join", (("rollout-0", 2), "rollout"), None), "its server began anew"),
        ((3.0, "doubt", (), None), "power was lost"),
        (lease(3.0, B, "g", attempt=1), "expired"),
    ],
)
def test_leases_that_come_to_nothing(call, ending):
    (life,), lives = lived(lease(1.0, A, "g"), call)
    assert life.ending.startswith(ending) and life.end_s == 3.0 and life.submitted_s is None
    assert lives.counts[LifePhase.LEASE] == len(lives.close())


def test_a_learner_that_goes_back_trains_the_same_groups_again():
    calls = [
        lease(0.0, A, "g", "h"), submit(1.0, A, "g"), take(2.0, 1, "g"), acknowledge(3.0, 1),
        (4.0, "rewind", (L, 0), 1), take(5.0, 1, "g"), acknowledge(6.0, 1),
    ]  # fmt: skip
    ended, lives = lived(*calls)
    assert [(life.group_id, life.ending, life.end_s) for life in ended] == [
        ("g", "trained", 3.0), ("h", "a learner went back", 4.0), ("g", "trained", 6.0),
    ]  # fmt: skip
    assert ended[2].server == "" and ended[2].phase is LifePhase.TRAIN
    assert lives.slots == 1  # of the step, whose weights no server serves


def test_a_batch_that_is_taken_again_is_one_life():
    calls = [lease(0.0, A, "g"), submit(1.0, A, "g"), take(2.0, 1, "g"), take(2.5, 1, "g")]
    ended, lives = lived(*calls, (3.0, "rewind", (L, 0), 1), take(4.0, 1, "g"), acknowledge(5.0, 1))
    assert [(life.taken_s, life.end_s) for life in ended] == [(4.0, 5.0)]
    assert not lives.close()


def test_slots_are_freed_when_all_servers_serve_the_weights():
    calls = [lease(0.0, A, "g"), submit(1.0, A, "g"), take(2.0, 1, "g"), acknowledge(3.0, 1)]
    serve_0, serve_1 = (4.0, "serve", (A, 0, 1), None), (5.0, "serve", (B, 0, 0), None)
    assert lived(*calls)[1].slots == 1
    assert lived(*calls, serve_1, serve_0)[1].slots == 1
    assert lived(*calls, serve_0)[1].slots == 0


def test_lanes_of_a_server_are_used_again_and_never_by_two():
    calls = [
        lease(0.0, A, "a", "b"), lease(0.0, B, "c"), submit(1.0, A, "a"), lease(2.0, A, "d", "e"),
    ]  # fmt: skip
    lives = lived(*calls)[1].close()
    lanes = {life.group_id: life.lane for life in lives}
    assert lanes == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 3}
    assert {life.ending for life in lives} == {"in flight"}


def test_refused_groups_say_so():
    calls = [lease(0.0, A, "g"), submit(1.0, A, "g"), take(2.0, 1, "g")]
    (life,), _ = lived(*calls, acknowledge(3.0, 1, {"g": "its picture is gone"}))
    assert life.ending == "refused"
