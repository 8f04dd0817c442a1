"""Each rule of the ledger by example. Owners are (name, incarnation)."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from broker.ledger.accounts import Place
from broker.ledger.entry import Entry, Receipt
from broker.ledger.ledger import Ledger
from broker.ledger.refusal import Refusal
from broker.protocol import Blame, Role, Verdict
from common.types import GroupLease
from tests.broker.support import lease_all, make_group, make_rules, make_source, submit_group
from tests.groups import with_trajectories

pytestmark = pytest.mark.smoke

A, B, LEARNER = ("rollout-0", 1), ("rollout-1", 1), ("learner-0", 1)


def make_ledger(num_samples: int = 8, groups_per_step: int = 2, staleness: int = 0) -> Ledger:
    return with_server(Ledger(make_source(num_samples), make_rules(groups_per_step, staleness)))


def with_server(ledger: Ledger) -> Ledger:
    """A and B are live rollout servers; A serves the first weights."""
    ledger.join(A, Role.ROLLOUT)
    ledger.join(B, Role.ROLLOUT)
    ledger.serve(A, 0, 0)
    return ledger


def serve(ledger: Ledger, version: int) -> None:
    ledger.serve(A, ledger.history, version)


def lease(
    ledger: Ledger, count: int = 99, version: int | None = None, now: float = 0.0
) -> list[GroupLease]:
    return lease_all(ledger, A, count, version, now)


def submit(ledger: Ledger, leases: list[GroupLease], version: int | None = None) -> None:
    for granted in leases:
        group = make_group(granted, ledger.version if version is None else version)
        assert submit_group(ledger, A, group) is Verdict.ACCEPTED
        ledger.check()


def train_step(ledger: Ledger, step: int, floor: int | None = None) -> list[str]:
    """Lease, generate, take and acknowledge one step; returns its group ids."""
    submit(ledger, lease(ledger))
    batch = ledger.take(LEARNER, step)
    assert batch is not None
    ledger.acknowledge(LEARNER, step, step, {})
    serve(ledger, step if floor is None else floor)
    ledger.check()
    return ids(batch.entries)


def ids(groups: Iterable[GroupLease | Entry]) -> list[str]:
    return [group.group_id for group in groups]


# ---- admission and slots -------------------------------------------------------------------------
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_admits_one_batch_more_than_the_staleness(staleness: int) -> None:
    ledger = make_ledger(20, 2, staleness)
    assert len(lease(ledger)) == 2 * (staleness + 1) == ledger.slots_used
    assert lease(ledger) == [] and not ledger.has_work


def test_slots_are_freed_by_the_acknowledgement_of_weights_not_by_the_take() -> None:
    ledger = make_ledger()
    submit(ledger, lease(ledger))
    ledger.take(LEARNER, 1)
    assert lease(ledger) == []
    ledger.acknowledge(LEARNER, 1, 1, {})
    assert lease(ledger) == [] and ledger.slots_used == 2
    serve(ledger, 0)  # somebody serves the old weights
    assert lease(ledger) == []
    serve(ledger, 1)
    assert ids(lease(ledger)) == ["0/2", "0/3"]


def test_a_server_with_old_weights_gets_no_lease_that_would_be_stale() -> None:
    ledger = make_ledger(staleness=1)
    submit(ledger, lease(ledger))  # steps 1 and 2
    ledger.take(LEARNER, 1)
    ledger.acknowledge(LEARNER, 1, 1, {})
    serve(ledger, 1)
    assert lease_all(ledger, B, version=0) == [] and ledger.has_work  # step 3 would be 2 behind
    assert len(lease_all(ledger, B, version=1)) == 2


def test_a_server_ahead_of_the_learner_is_refused() -> None:
    with pytest.raises(Refusal, match="serving version 1"):
        lease(make_ledger(), version=1)


def test_nothing_is_leased_that_no_step_will_train() -> None:
    ledger = with_server(Ledger(make_source(7), make_rules(2, 5)))
    assert ledger.steps.total_steps == 3 and len(lease(ledger)) == 6
    ledger = with_server(Ledger(make_source(7), make_rules(2, 5, max_steps=2)))
    assert ledger.steps.total_steps == 2 and len(lease(ledger)) == 4


def test_the_last_step_is_generated_while_the_one_before_it_trains() -> None:
    ledger = make_ledger(6, 2, 1)
    train_step(ledger, 1)
    assert ledger.take(LEARNER, 2) is not None and ledger.steps.last_step == 3
    assert ids(lease(ledger)) == ["0/4", "0/5"]


# ---- order ---------------------------------------------------------------------------------------
def test_batches_are_the_dataset_order_whatever_the_order_of_submission() -> None:
    ledger = make_ledger(8, 2, 1)
    leases = lease(ledger)
    submit(ledger, leases[::-1])
    batch = ledger.take(LEARNER, 1)
    assert batch is not None and ids(batch.entries) == ["0/0", "0/1"]
    assert [e.assignment.sample for e in batch.entries] == [x.sample for x in leases[:2]]


def test_a_batch_waits_for_its_own_groups_although_later_ones_are_there() -> None:
    ledger = make_ledger(8, 2, 1)
    leases = lease(ledger)
    submit(ledger, leases[1:])
    assert ledger.take(LEARNER, 1) is None
    submit(ledger, leases[:1])
    assert ledger.take(LEARNER, 1) is not None


def test_returned_groups_are_leased_first_and_keep_their_place() -> None:
    ledger = make_ledger(8, 2, 1)
    leases = lease(ledger, 3)
    ledger.give_back(A, leases[2].group_id, 0, Blame.NOBODY, "?", 0.0)
    ledger.give_back(A, leases[1].group_id, 0, Blame.NOBODY, "?", 0.0)
    again = lease_all(ledger, B, 99, 0)
    assert ids(again) == ["0/1", "0/2", "0/3"] and [g.attempt for g in again] == [1, 1, 0]
    assert [g.sampling_seed for g in again[:2]] == [g.sampling_seed for g in leases[1:]]


def test_epochs_follow_each_other_until_fewer_groups_than_a_step_are_left() -> None:
    source = make_source(3, epochs=3)
    ledger = with_server(Ledger(source, make_rules(2)))
    trained = [group for step in range(1, 5) for group in train_step(ledger, step)]
    assert trained == [source.at(i).group_id for i in range(8)]
    end = ledger.take(LEARNER, 5)
    assert end is not None and end.exhausted and end.entries == ()


# ---- leases, attempts, fencing -------------------------------------------------------------------
def test_lease_lapses_at_its_deadline() -> None:
    ledger = make_ledger()
    lease(ledger, 1, now=0.0)
    lease(ledger, 1, now=3.0)
    assert ledger.next_deadline() == 10.0 and ledger.lapse(9.9) == []
    assert ledger.lapse(10.0) == ["0/0"] and ledger.next_deadline() == 13.0
    assert ledger.lapse(99.0) == ["0/1"] and ledger.next_deadline() is None
    assert ledger.books.samples.expired_by_reason == {"lease_lapsed": 2}


def test_late_submit_is_fenced_before_and_after_the_next_attempt() -> None:
    ledger = make_ledger()
    (old,) = lease(ledger, 1)
    ledger.lapse(10.0)
    assert submit_group(ledger, A, make_group(old, 0)) is Verdict.FENCED
    (new,) = lease(ledger, 1)
    assert submit_group(ledger, A, make_group(old, 0)) is Verdict.FENCED
    assert submit_group(ledger, A, make_group(new, 0)) is Verdict.ACCEPTED
    assert submit_group(ledger, A, make_group(old, 0)) is Verdict.FENCED
    ledger.check()


def test_submit_sent_twice_is_harmless_at_every_later_moment() -> None:
    ledger = make_ledger()
    leases = lease(ledger)
    group = make_group(leases[0], 0)
    submit(ledger, leases)
    before = ledger.counts()
    assert submit_group(ledger, A, group) is Verdict.DUPLICATE and ledger.counts() == before
    ledger.take(LEARNER, 1)
    assert submit_group(ledger, A, group) is Verdict.DUPLICATE
    ledger.acknowledge(LEARNER, 1, 1, {})
    assert submit_group(ledger, A, group) is Verdict.DUPLICATE
    before = ledger.counts()
    serve(ledger, 1)
    assert submit_group(ledger, A, group) is Verdict.DUPLICATE
    assert ledger.counts() == before | {"slots_used": 0}
    ledger.commit(1, 1)
    assert submit_group(ledger, A, group) is Verdict.FENCED  # forgotten: no rewind can undo it
    ledger.check()


def test_only_the_holder_of_a_lease_can_use_it() -> None:
    ledger = make_ledger()
    (granted,) = lease(ledger, 1)
    for stranger in (B, (A[0], 2)):
        assert submit_group(ledger, stranger, make_group(granted, 0)) is Verdict.FENCED
        assert not ledger.give_back(stranger, granted.group_id, 0, Blame.SAMPLE, "?", 0.0)
        assert ledger.leave(stranger, "member_lost", "?", 0.0) == []
    assert not ledger.give_back(A, granted.group_id, 1, Blame.SAMPLE, "?", 0.0)  # another attempt
    assert submit_group(ledger, A, make_group(granted, 0)) is Verdict.ACCEPTED


def test_a_member_that_goes_away_gives_back_its_leases_but_not_its_groups() -> None:
    ledger = make_ledger(8, 2, 1)
    leases = lease(ledger, 3)
    submit(ledger, leases[:1])
    assert ledger.leave(A, "member_lost", "?", 0.0) == ["0/1", "0/2"]
    ledger.check()
    assert ids(lease_all(ledger, B, 2, 0)) == ["0/1", "0/2"]
    assert ledger.books.samples[Place.WAITING] == 1


def test_weights_of_the_future_are_refused() -> None:
    ledger = make_ledger()
    first, _ = lease(ledger, 2)
    with pytest.raises(Refusal) as refused:
        submit_group(ledger, A, make_group(first, 1))
    assert refused.value.code == "bad_group"
    ledger.check()
    assert submit_group(ledger, A, make_group(first, 0)) is Verdict.ACCEPTED  # still leased


def test_a_request_for_leases_sent_again_gets_the_same() -> None:
    ledger = make_ledger(8, 2, 1)
    first = lease_all(ledger, A, 2, request_id=b"one")
    assert lease_all(ledger, A, 2, request_id=b"one") == first
    assert len(lease_all(ledger, A, 9, request_id=b"two")) == 2
    submit(ledger, first[:1])
    assert lease_all(ledger, A, 2, request_id=b"one") == first[1:]
    ledger.check()


def test_a_member_holds_a_bounded_number_of_leases() -> None:
    rules = replace(make_rules(8), max_leases=3)
    ledger = with_server(Ledger(make_source(8), rules))
    first = lease(ledger)
    assert len(first) == 3 and lease(ledger) == []
    submit(ledger, first[:1])
    assert len(lease(ledger)) == 1 and len(lease_all(ledger, B, 99, 0)) == 3


# ---- staleness -----------------------------------------------------------------------------------
def test_a_group_too_old_for_its_step_expires_when_it_is_submitted() -> None:
    ledger = make_ledger()
    train_step(ledger, 1)
    (granted, _) = lease(ledger)
    assert submit_group(ledger, A, make_group(granted, 0)) is Verdict.STALE
    ledger.check()
    assert ledger.books.tokens.expired_by_reason == {"stale_at_submit": 3 + 4}
    (again,) = lease(ledger)
    assert (again.group_id, again.attempt) == (granted.group_id, 1)
    assert submit_group(ledger, A, make_group(again, 1)) is Verdict.ACCEPTED
    assert ledger.books.tokens[Place.WAITING] == 7
    assert ledger.books.tokens.issued == 7 + 7 + 2 * 7  # step 1, the stale group, this one


def test_the_oldest_token_of_any_trajectory_counts() -> None:
    ledger = make_ledger(8, 1, 1)
    for step in (1, 2):
        train_step(ledger, step, floor=step)
    (granted, *_) = lease(ledger)
    old, new = make_group(granted, 0).trajectories[0], make_group(granted, 2).trajectories[1]
    mixed = with_trajectories(make_group(granted, 2), (old, new))
    assert submit_group(ledger, A, mixed) is Verdict.STALE


def test_the_guard_at_take_refuses_what_admission_let_through() -> None:
    """Nothing reaches it in normal running, so the group is made older behind the ledger's back."""
    ledger = make_ledger()
    train_step(ledger, 1)
    leases = lease(ledger)
    submit(ledger, leases)
    for entry in ledger.needed():
        if entry.group_id == leases[1].group_id:
            entry.receipt = Receipt.of(make_group(leases[1], 0))
    assert ledger.take(LEARNER, 2) is None
    ledger.check()
    assert ledger.books.samples.expired_by_reason == {"stale_at_take": 1}
    submit(ledger, lease(ledger))
    batch = ledger.take(LEARNER, 2)
    assert batch is not None and all(
        e.receipt and e.receipt.oldest_version == 1 for e in batch.entries
    )


def test_max_staleness_seen_is_that_of_trained_groups() -> None:
    ledger = make_ledger(8, 2, 1)
    submit(ledger, lease(ledger))  # steps 1 and 2, from version 0
    for step, seen in ((1, 0), (2, 1)):
        ledger.take(LEARNER, step)
        ledger.acknowledge(LEARNER, step, step, {})
        assert ledger.steps.max_staleness_seen == seen


# ---- broken samples ------------------------------------------------------------------------------
def test_broken_sample_is_quarantined_after_its_attempts_and_replaced() -> None:
    ledger = make_ledger()
    for attempt in range(3):
        (granted,) = lease(ledger, 1)
        assert (granted.group_id, granted.attempt) == ("0/0", attempt)
        gone = ledger.give_back(A, "0/0", attempt, Blame.SAMPLE, "?", 0.0)
        ledger.check()
        assert gone == (attempt == 2)
    assert ids(lease(ledger)) == ["0/1", "0/2"]
    assert ledger.books.samples.expired_by_reason == {"broken_sample": 2}
    assert ledger.books.trajectories[Place.QUARANTINED] == 2


def test_other_failures_do_not_count_towards_quarantine() -> None:
    ledger = make_ledger()
    for attempt in range(9):
        lease(ledger, 1)
        assert not ledger.give_back(A, "0/0", attempt, Blame.NOBODY, "?", 0.0)
    assert ids(lease(ledger, 1)) == ["0/0"]


def test_quarantine_near_the_end_ends_the_data_without_a_deadlock() -> None:
    ledger = with_server(Ledger(make_source(5), make_rules(2, 0, max_attempts=1)))
    train_step(ledger, 1)
    for _ in range(2):  # two of the last three groups are broken: one is left, less than a step
        granted = lease(ledger)
        assert ledger.take(LEARNER, 2) is None
        ledger.give_back(A, granted[0].group_id, granted[0].attempt, Blame.SAMPLE, "?", 0.0)
        ledger.leave(A, "member_left", "?", 0.0)
        with_server(ledger)
        ledger.check()
    end = ledger.take(LEARNER, 2)
    assert end is not None and end.exhausted
    assert lease(ledger) == [] and not ledger.has_work


def test_groups_refused_by_the_learner_are_quarantined_and_keep_their_slots() -> None:
    ledger = make_ledger()
    submit(ledger, lease(ledger))
    ledger.take(LEARNER, 1)
    with pytest.raises(Refusal, match="not in step 1"):
        ledger.acknowledge(LEARNER, 1, 1, {"0/7": "?"})
    ledger.acknowledge(LEARNER, 1, 1, {"0/1": "cannot be rendered"})
    ledger.check()
    samples = ledger.books.samples
    assert (samples[Place.TRAINED], samples[Place.QUARANTINED]) == (1, 1)
    assert ledger.slots_used == 2 and lease(ledger) == []
    serve(ledger, 1)
    assert ids(lease(ledger)) == ["0/2", "0/3"]


# ---- the learner's batch -------------------------------------------------------------------------
def test_take_is_idempotent_and_at_most_one_step_ahead() -> None:
    ledger = make_ledger(8, 2, 1)
    submit(ledger, lease(ledger))
    first = ledger.take(LEARNER, 1)
    assert first is not None and ledger.take(LEARNER, 1) == first
    with pytest.raises(Refusal, match="step 2"):
        ledger.take(LEARNER, 2)
    ledger.acknowledge(LEARNER, 1, 1, {})
    ledger.acknowledge(LEARNER, 1, 1, {})  # sent twice
    assert ledger.version == 1 and ledger.books.samples[Place.TRAINED] == 2
    with pytest.raises(Refusal, match="step 1"):
        ledger.take(LEARNER, 1)


def test_another_learner_takes_over_the_batch_and_the_first_is_fenced() -> None:
    ledger = make_ledger()
    submit(ledger, lease(ledger))
    first = ledger.take(LEARNER, 1)
    reborn = (LEARNER[0], 2)
    with pytest.raises(Refusal) as refused:
        ledger.take(reborn, 1)
    assert refused.value.code == "not_resumed"
    assert ledger.rewind(reborn, 0) == 0 == ledger.rewind(reborn, 0)  # nothing is undone
    ledger.check()
    again = ledger.take(reborn, 1)
    assert first is not None and again is not None
    assert again.entries == first.entries and again.batch_id == first.batch_id + 1
    with pytest.raises(Refusal) as refused:
        ledger.acknowledge(LEARNER, 1, first.batch_id, {})
    assert refused.value.code == "fenced"
    ledger.acknowledge(reborn, 1, again.batch_id, {})
    with pytest.raises(Refusal):
        ledger.acknowledge(LEARNER, 1, 1, {})
    assert ledger.version == 1


def test_a_step_that_was_not_taken_cannot_be_acknowledged() -> None:
    ledger = make_ledger()
    submit(ledger, lease(ledger))
    with pytest.raises(Refusal, match="not taken"):
        ledger.acknowledge(LEARNER, 1, 1, {})


# ---- accounts ------------------------------------------------------------------------------------
def test_accounts_of_one_run_by_hand() -> None:
    ledger = make_ledger(4)
    first, second = lease(ledger)
    ledger.give_back(A, second.group_id, 0, Blame.NOBODY, "?", 0.0)
    submit(ledger, [first])
    counts = ledger.counts()
    assert counts["groups_total"] == 4 and counts["groups_never_issued"] == 2
    assert counts["groups_to_issue_again"] == 1 and counts["slots_used"] == 2
    for unit, size in (("samples", 1), ("trajectories", 2)):
        assert counts[f"{unit}_issued"] == 2 * size
        assert counts[f"{unit}_expired"] == counts[f"{unit}_waiting"] == size
    assert counts["tokens_issued"] == counts["tokens_waiting"] == 7
    submit(ledger, lease(ledger))
    ledger.take(LEARNER, 1)
    assert ledger.counts()["tokens_in_flight"] == 14
    ledger.acknowledge(LEARNER, 1, 1, {})
    assert ledger.counts()["tokens_trained"] == 14 and ledger.counts()["samples_issued"] == 3


def test_check_notices_a_lost_group_and_a_wrong_balance() -> None:
    ledger = make_ledger()
    lease(ledger)
    ledger.books.samples.issued += 1
    with pytest.raises(AssertionError, match="3 issued"):
        ledger.check()
    ledger = make_ledger()
    lease(ledger)
    ledger._groups.pending.pop()
    with pytest.raises(AssertionError):
        ledger.check()


# ---- several learner ranks -----------------------------------------------------------------------
R0, R1 = ("learner-0", 1), ("learner-1", 1)


def test_ranks_pull_shards_of_equal_load_that_make_up_the_batch() -> None:
    ledger = make_ledger(8, 4)
    for granted, tokens in zip(lease(ledger), (50, 10, 10, 40), strict=True):
        submit_group(ledger, A, make_group(granted, 0, tokens=tokens))
    first, second = ledger.take(R0, 1, 0, 2), ledger.take(R1, 1, 1, 2)
    assert first is not None and second is not None
    assert (ids(first.entries), ids(second.entries)) == (["0/0", "0/2"], ["0/1", "0/3"])
    assert ledger.take(R1, 1, 1, 2) == second
    for rank, world_size in ((2, 2), (0, 5), (0, 0)):
        with pytest.raises(Refusal, match="rank"):
            ledger.take(R0, 1, rank, world_size)
    with pytest.raises(Refusal, match="split over 2"):
        ledger.take(R0, 1, 0, 1)
    ledger.check()


def test_a_step_is_done_when_every_rank_has_acknowledged_its_shard() -> None:
    ledger = make_ledger(8, 2)
    submit(ledger, lease(ledger))
    first, second = ledger.take(R0, 1, 0, 2), ledger.take(R1, 1, 1, 2)
    assert first is not None and second is not None
    (stranger,) = ids(second.entries)
    with pytest.raises(Refusal, match="not in step 1"):
        ledger.acknowledge(R0, 1, 1, {stranger: "?"}, 0)
    assert not ledger.acknowledge(R0, 1, 1, {}, 0) and not ledger.acknowledge(R0, 1, 1, {}, 0)
    assert ledger.version == 0
    with pytest.raises(Refusal) as refused:
        ledger.acknowledge(R0, 1, 1, {}, 1)  # not its shard
    assert refused.value.code == "fenced"
    assert ledger.acknowledge(R1, 1, 1, {stranger: "broken"}, 1) and ledger.version == 1
    assert ledger.acknowledge(R0, 1, 1, {}, 0)  # once more: it had no answer yet
    assert ledger.books.samples[Place.QUARANTINED] == 1
    ledger.check()


# ---- checkpoints and history ---------------------------------------------------------------------
REBORN = (LEARNER[0], 2)


def test_a_rewind_undoes_what_was_trained_since_and_issues_it_again() -> None:
    ledger = make_ledger(12, 2, 1)
    trained = [train_step(ledger, step) for step in (1, 2, 3)]
    ledger.take(LEARNER, 4)
    assert ledger.rewind(REBORN, 1) == 1
    ledger.check()
    assert (ledger.version, ledger.steps.freed, ledger.slots_used) == (1, 1, 4)
    assert ledger.books.samples[Place.TRAINED] == 2
    assert ledger.books.samples.expired_by_reason == {"rewound": 6}
    assert ledger.books.lengths.trained == {4: 4} and ledger.books.lengths.expired == {4: 12}
    assert ledger.lease(A, b"", 9, 0, 1, 0.0) == []  # its weights are of the history that is gone
    serve(ledger, 1)
    leases = lease(ledger)
    assert ids(leases) == trained[1] + trained[2]
    assert {granted.attempt for granted in leases} == {1}
    submit(ledger, leases)
    batch = ledger.take(REBORN, 2)
    assert batch is not None and ids(batch.entries) == trained[1]
    with pytest.raises(Refusal):
        ledger.acknowledge(LEARNER, 2, 2, {})


def test_a_rewind_to_the_newest_step_undoes_nothing() -> None:
    ledger = make_ledger(12, 2, 1)
    train_step(ledger, 1)
    leases = lease(ledger)
    first = ledger.take(LEARNER, 2)
    assert ledger.rewind(REBORN, 1) == 0  # the history goes on
    ledger.check()
    again = ledger.take(REBORN, 2)
    assert first is not None and again is not None and again.entries == first.entries
    submit(ledger, leases)  # leases live on


def test_groups_that_older_weights_made_survive_a_rewind() -> None:
    """Step 2's groups were generated with version 0: they are as good after a rewind to it."""
    ledger = make_ledger(12, 2, 2)
    submit(ledger, lease(ledger))
    ledger.take(LEARNER, 1)
    ledger.acknowledge(LEARNER, 1, 1, {})
    ledger.rewind(REBORN, 0)
    ledger.check()
    serve(ledger, 0)
    assert ids(lease(ledger)) == ["0/0", "0/1"]  # trained, so their trajectories are gone


def test_servers_of_a_gone_history_get_no_leases_and_free_no_slots() -> None:
    ledger = make_ledger(12, 2, 1)
    for step in (1, 2):
        train_step(ledger, step)
    ledger.rewind(REBORN, 1)
    ledger.serve(A, 0, 2)  # late: of history 0
    assert ledger.servers.version_of(A) == -1
    assert ledger.lease(A, b"old", 9, 0, 1, 0.0) == []
    assert len(ledger.lease(A, b"new", 9, 1, 1, 0.0)) == 2  # two more wait since before


def test_refused_groups_are_tried_again_after_a_rewind_and_broken_ones_are_not() -> None:
    ledger = with_server(Ledger(make_source(8), make_rules(2, 0, max_attempts=1)))
    broken, whole = lease(ledger)
    ledger.give_back(A, broken.group_id, 0, Blame.SAMPLE, "?", 0.0)
    submit(ledger, [whole, *lease(ledger)])
    ledger.take(LEARNER, 1)
    ledger.acknowledge(LEARNER, 1, 1, {"0/2": "cannot be rendered"})
    ledger.rewind(REBORN, 0)
    ledger.check()
    serve(ledger, 0)
    assert ids(lease(ledger)) == ["0/1", "0/2"]


def test_commits_bound_how_far_a_rewind_goes() -> None:
    ledger = make_ledger(12, 2)
    for step in (1, 2, 3):
        train_step(ledger, step)
    ledger.commit(2, 1)
    assert len(ledger.kept()) == 4 and ledger.steps.committed == 2
    with pytest.raises(Refusal, match="can no longer be undone"):
        ledger.rewind(REBORN, 0)
    with pytest.raises(Refusal, match="only 3 are acknowledged"):
        ledger.rewind(REBORN, 4)
    for step, oldest in ((4, 1), (2, 3)):
        with pytest.raises(Refusal):
            ledger.commit(step, oldest)
    ledger.rewind(REBORN, 1)
    assert ledger.version == 1 and ledger.steps.committed == 1
    ledger.check()


def test_damaged_groups_are_generated_again_even_from_a_step_under_way() -> None:
    ledger = make_ledger(8, 2)
    leases = lease(ledger)
    submit(ledger, leases)
    ledger.take(LEARNER, 1)
    assert not ledger.lose("0/1", 5)
    assert ledger.lose("0/1", 0)
    ledger.check()
    with pytest.raises(Refusal, match="not taken"):
        ledger.acknowledge(LEARNER, 1, 1, {})
    assert ledger.take(LEARNER, 1) is None
    submit(ledger, lease(ledger))
    again = ledger.take(LEARNER, 1)
    assert again is not None
    with pytest.raises(Refusal, match="taken anew"):  # it was trained on what was lost
        ledger.acknowledge(LEARNER, 1, 1, {})
    assert ledger.acknowledge(LEARNER, 1, again.batch_id, {})


def test_the_end_moves_when_the_rules_are_amended() -> None:
    ledger = with_server(Ledger(make_source(12), make_rules(2, max_steps=1)))
    train_step(ledger, 1)
    assert lease(ledger) == []
    ledger.amend(5.0, 1, None, 9)
    assert ledger.steps.total_steps == 6 and len(lease(ledger)) == 2


def test_after_a_power_cut_nothing_that_was_forgotten_can_pass_for_news() -> None:
    ledger = make_ledger(12, 2, 1)
    ledger.rewind(LEARNER, 0)
    train_step(ledger, 1)
    leases = lease(ledger)
    ledger.take(LEARNER, 2)
    ledger.doubt()
    ledger.check()
    assert ledger.history == 1 and ledger.version == 1
    assert submit_group(ledger, A, make_group(leases[0], 1)) is Verdict.FENCED
    with pytest.raises(Refusal, match="must say where it resumes"):
        ledger.take(LEARNER, 2)
    with pytest.raises(Refusal) as refused:  # its first word may arrive once more
        ledger.rewind(LEARNER, 0)
    assert refused.value.code == "fenced" and ledger.version == 1
    for rank in (0, 1):
        with pytest.raises(Refusal, match="must say where it resumes"):
            ledger.take(R1, 2, rank, 2)
    assert ledger.rewind(REBORN, 1) == 1
    serve(ledger, 1)
    again = lease(ledger)
    assert min(granted.attempt for granted in again) > 1000  # whatever was leased and forgotten
    submit(ledger, again)
    assert ledger.take(REBORN, 2) is not None
