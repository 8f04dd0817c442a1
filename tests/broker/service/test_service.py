"""Held requests, deadlines and deaths, with time as an argument and no socket."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from broker import protocol as p
from broker.ledger.entry import Entry, Rules, lease_of
from common.data_health import DataRows, RefusedRow
from common.group_batch import encode, read
from common.types import FinishReason, GroupLease, WeightProbe
from tests.broker.support import (
    make_group,
    make_rules,
    make_service,
    make_source,
    make_update,
    me,
    submission,
)
from tests.groups import with_first, with_trajectories

pytestmark = pytest.mark.smoke

ROLES = {"r": p.Role.ROLLOUT, "l": p.Role.LEARNER}

ACCEPTED = (p.Verdict.ACCEPTED,)


class Bench:
    """A service, a clock that tests move, and a mailbox of replies by request."""

    def __init__(
        self,
        rules: Rules,
        num_samples: int = 8,
        member_timeout_s: float = 20,
        max_held_bytes: int = 2**30,
        rows: DataRows | None = None,
    ) -> None:
        self.service = make_service(
            make_source(num_samples),
            rules,
            member_timeout_s,
            max_held_bytes=max_held_bytes,
            rows=rows,
        )
        self.now = 0.0
        self.replies: dict[str, list[BaseModel]] = {}
        self.num_sent = 0

    def hello(self, *names: str, incarnation: int = 1) -> None:
        for name in names:
            role = ROLES[name[0]]
            self.ask(p.Hello(member_id=name, role=role, incarnation=incarnation))

    def send(self, request: BaseModel, tag: str = "") -> str:
        """Send a request; returns the tag under which its replies will be."""
        self.num_sent += 1
        tag = tag or str(self.num_sent)
        self._keep(self.service.handle(b"peer", tag.encode(), request, self.now))
        return tag

    def ask(self, request: BaseModel) -> Any:
        (reply,) = self.replies[self.send(request)]
        return reply

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._keep(self.service.tick(self.now))

    def reply(self, tag: str) -> Any:
        replies = self.replies.get(tag, [])
        assert len(replies) <= 1
        return replies[0] if replies else None

    def _keep(self, outgoing: list[Any]) -> None:
        for _, request_id, message in outgoing:
            self.replies.setdefault(request_id.decode(), []).append(message)


def lease(name: str, wait_s: float = 0.0, count: int = 9, version: int = 0) -> p.LeaseRequest:
    return p.LeaseRequest(
        **me(name), max_groups=count, history=0, serving_version=version, wait_s=wait_s
    )


def submit(bench: Bench, name: str, leases: p.Leases, version: int = 0) -> None:
    for granted in leases.leases:
        group = make_group(granted, version)
        assert bench.ask(submission(me(name), group)).outcomes == ACCEPTED


def test_a_held_request_ends_at_its_time_with_an_empty_reply() -> None:
    bench = Bench(make_rules())
    bench.hello("r0", "l0")
    tags = {
        bench.send(p.TakeBatch(**me("l0"), step=1, wait_s=5)): p.Batch(step=1, groups=()),
        bench.send(p.WatchMembers(**me("l0"), at_least=2, wait_s=5)): p.Members(
            acknowledged={"r0": -1}, ranks={"r0": 1}
        ),
        bench.send(p.WatchWeights(**me("r0"), seen_serial=0, wait_s=5)): p.Announcement(
            serial=0, update=None
        ),
    }
    assert bench.service.next_deadline() == 5
    bench.advance(4.9)
    assert all(bench.reply(tag) is None for tag in tags)
    bench.advance(0.1)
    assert {tag: bench.reply(tag) for tag in tags} == tags
    assert bench.service.next_deadline() == 20  # only the members' own are left


def test_a_take_is_answered_by_the_submit_that_completes_the_batch() -> None:
    bench = Bench(make_rules())
    bench.hello("r0", "l0")
    tag = bench.send(p.TakeBatch(**me("l0"), step=1, wait_s=60))
    granted = bench.ask(lease("r0"))
    submit(bench, "r0", p.Leases(leases=granted.leases[1:]))
    assert bench.reply(tag) is None
    submit(bench, "r0", p.Leases(leases=granted.leases[:1]))
    assert [read(x).group_id for x in bench.reply(tag).groups] == ["0/0", "0/1"]


def test_members_are_watched() -> None:
    bench = Bench(make_rules())
    bench.hello("l0", "r0")
    tag = bench.send(p.WatchMembers(**me("l0"), at_least=2, wait_s=60))
    assert bench.reply(tag) is None
    bench.hello("r1")
    assert bench.reply(tag) == p.Members(
        acknowledged={"r0": -1, "r1": -1}, ranks={"r0": 1, "r1": 1}
    )


def train(bench: Bench, step: int) -> None:
    bench.ask(p.TakeBatch(**me("l0"), step=step, wait_s=0))
    bench.ask(p.AckBatch(**me("l0"), step=step, batch_id=step))


def test_every_live_server_must_acknowledge_the_weights_before_slots_are_freed() -> None:
    bench = Bench(make_rules())
    bench.hello("l0", "r0", "r1")
    for name in ("r0", "r1"):
        bench.ask(p.AckWeights(**me(name), history=0, version=0))
    submit(bench, "r0", bench.ask(lease("r0")))
    train(bench, 1)
    tag = bench.send(lease("r0", wait_s=60))
    bench.ask(p.AckWeights(**me("r0"), history=0, version=1))
    assert bench.reply(tag) is None
    bench.ask(p.AckWeights(**me("r1"), history=0, version=1))
    # the request said version 0, but the server has acknowledged 1 since
    assert [granted.group_id for granted in bench.reply(tag).leases] == ["0/2", "0/3"]


@pytest.mark.parametrize("ending", ["goodbye", "silence", "restart"])
def test_a_server_that_goes_away_holds_up_nobody(ending: str) -> None:
    bench = Bench(make_rules(2, 1))
    bench.hello("l0", "r0", "r1")
    for name in ("r0", "r1"):
        bench.ask(p.AckWeights(**me(name), history=0, version=0))
    assert len(bench.ask(lease("r1", count=1)).leases) == 1
    granted = bench.ask(lease("r0", count=1))
    submit(bench, "r0", granted)
    tag = bench.send(lease("r0", wait_s=60, count=1))
    assert bench.reply(tag) is not None  # 0/2
    held = bench.send(p.WatchWeights(**me("r1"), seen_serial=0, wait_s=60))
    if ending == "goodbye":
        bench.ask(p.Goodbye(**me("r1")))
    elif ending == "restart":
        bench.hello("r1", incarnation=2)
    else:
        bench.advance(15)
        for name in ("r0", "l0"):
            bench.ask(p.Heartbeat(**me(name)))
        bench.advance(5)
    again = bench.ask(lease("r0", count=1)).leases
    assert [(x.group_id, x.attempt) for x in again] == [("0/0", 1)]
    assert isinstance(bench.reply(held), p.Refused)
    submit(bench, "r0", p.Leases(leases=again))
    train(bench, 1)
    bench.ask(lease("r0"))  # all slots are used now
    tag = bench.send(lease("r0", wait_s=60))
    assert bench.reply(tag) is None
    bench.ask(p.AckWeights(**me("r0"), history=0, version=1))
    assert [granted.group_id for granted in bench.reply(tag).leases] == ["0/4", "0/5"]


def test_a_lapsed_lease_wakes_a_server_that_waits() -> None:
    bench = Bench(make_rules(1, lease_s=10))
    bench.hello("r0", "r1")
    bench.ask(lease("r0"))
    tag = bench.send(lease("r1", wait_s=60))
    assert bench.service.next_deadline() == 10
    bench.advance(10)
    assert [(x.group_id, x.attempt) for x in bench.reply(tag).leases] == [("0/0", 1)]


def test_the_same_held_request_sent_again_is_answered_once() -> None:
    bench = Bench(make_rules(1))
    bench.hello("r0", "r1")
    granted = bench.ask(lease("r0"))
    bench.send(lease("r1", wait_s=60), tag="same")
    bench.advance(2)
    bench.send(lease("r1", wait_s=60), tag="same")
    released = granted.leases[0]
    bench.ask(
        p.GiveBack(
            **me("r0"), group_id=released.group_id, attempt=0, reason="x", blame=p.Blame.NOBODY
        )
    )
    first = bench.reply("same")
    assert first.leases[0].attempt == 1
    bench.send(lease("r1", wait_s=60), tag="same")  # once more: its first reply was lost
    assert bench.replies["same"] == [first, first]
    bench.advance(200)


def test_finish_is_told_to_everybody_and_ends_when_all_have_left() -> None:
    bench = Bench(make_rules(1))
    bench.hello("r0", "l0")
    bench.ask(lease("r0"))
    tags = [
        bench.send(lease("r0", wait_s=60)),
        bench.send(p.WatchWeights(**me("r0"), seen_serial=0, wait_s=60)),
    ]
    assert bench.ask(p.Finish(**me("l0"), reason="done")).finished
    assert all(bench.reply(tag).finished for tag in tags)
    assert bench.ask(p.Heartbeat(**me("r0"))).finished and bench.ask(lease("r0", 60)).finished
    bench.ask(p.Goodbye(**me("l0")))
    assert not bench.service.is_over
    bench.advance(25)  # r0 says nothing any more
    assert bench.service.is_over


def test_another_protocol_version_is_refused_with_the_mend() -> None:
    bench = Bench(make_rules())
    old = p.Hello(member_id="r0", role=p.Role.ROLLOUT, incarnation=1, protocol_version=0)
    refused = bench.ask(old)
    assert refused.code == "version_mismatch" and "Fix" in refused.message


def test_weights_are_announced_only_after_the_step_that_made_them() -> None:
    bench = Bench(make_rules())
    bench.hello("r0", "l0")
    refused = bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(1, "r0")))
    assert refused.code == "bad_request"
    assert bench.ask(p.AckWeights(**me("r0"), history=0, version=1)).code == "bad_request"
    bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(0, "r0")))
    assert (
        bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(0, "r0"))) == p.Done()
    )  # sent twice


def test_an_announcement_with_a_probe_may_be_sent_twice() -> None:
    bench = Bench(make_rules())
    bench.hello("r0", "l0")
    tokens = np.array([1, 2], dtype=np.int32)
    probe = WeightProbe(
        prompt_token_ids=tokens,
        image=b"",
        response_token_ids=tokens,
        logprobs=np.array([-1.0, -2.0], dtype=np.float32),
        tolerance=0.1,
    )
    for _ in range(2):  # two frames: their arrays are equal, and not the same
        update = make_update(0, "r0").model_copy(update={"probes": (probe.model_copy(deep=True),)})
        assert bench.ask(p.AnnounceWeights(**me("l0"), update=update)) == p.Done()
    assert bench.ask(p.WatchWeights(**me("r0"), seen_serial=0, wait_s=0)).serial == 1


def test_an_announcement_reaches_those_it_concerns_once() -> None:
    bench = Bench(make_rules())
    bench.hello("l0", "r0", "r1")

    def watch(name: str, serial: int) -> p.WatchWeights:
        return p.WatchWeights(**me(name), seen_serial=serial, wait_s=60)

    tags = {name: bench.send(watch(name, 0)) for name in ("r0", "r1")}
    update = make_update(0, "r0")
    bench.ask(p.AnnounceWeights(**me("l0"), update=update))
    assert bench.reply(tags["r0"]).update == update and bench.reply(tags["r1"]) is None
    assert bench.reply(bench.send(watch("r0", 1))) is None
    assert bench.ask(watch("r0", 0)) == p.Announcement(serial=1, update=update)


@pytest.mark.parametrize("change", ["sample", "count", "index", "abort"])
def test_a_group_that_is_not_what_was_leased_is_refused(change: str) -> None:
    bench = Bench(make_rules())
    bench.hello("r0")
    first, second = bench.ask(lease("r0")).leases
    group = make_group(first, 0)
    wrong = {
        "sample": replace(group, sample_id=second.sample.sample_id),
        "count": with_trajectories(group, group.trajectories[:1]),
        "index": make_group(first, 0, first=1),
        "abort": with_first(group, finish_reason=FinishReason.ABORT),
    }[change]
    (refused,) = bench.ask(submission(me("r0"), wrong)).outcomes
    assert refused.code == "bad_group"
    assert bench.ask(submission(me("r0"), group)).outcomes == ACCEPTED  # the lease is still there


def test_groups_that_come_together_are_judged_each_by_itself() -> None:
    bench = Bench(make_rules())
    bench.hello("r0")
    first, second = (make_group(granted, 0) for granted in bench.ask(lease("r0")).leases)
    bad = replace(second, sample_id="another")
    outcomes = bench.ask(submission(me("r0"), first, bad, first, second)).outcomes
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [
        p.Verdict.ACCEPTED, "bad_group", p.Verdict.DUPLICATE, p.Verdict.ACCEPTED
    ]  # fmt: skip


def test_a_new_learner_resumes_and_servers_wait_for_its_weights() -> None:
    bench = Bench(make_rules(2, 1), num_samples=12)
    bench.hello("l0", "r0")
    bench.ask(p.Resume(**me("l0"), step=0))
    bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(0, "r0")))
    bench.ask(p.AckWeights(**me("r0"), history=0, version=0))
    for step in (1, 2):
        submit(bench, "r0", bench.ask(lease("r0", version=step - 1)), version=step - 1)
        train(bench, step)
        bench.ask(p.AckWeights(**me("r0"), history=0, version=step))
    tag = bench.send(lease("r0", wait_s=60, version=2))
    assert bench.reply(tag) is not None
    bench.hello("l0", incarnation=2)
    refused = bench.ask(p.TakeBatch(**me("l0", 2), step=3, wait_s=0))
    assert refused.code == "not_resumed"
    assert bench.ask(p.Resume(**me("l0", 2), step=1)) == p.Resumed(history=1, version=1)
    tag = bench.send(lease("r0", wait_s=60, version=2))
    old = make_update(1, "r0", attempt=9)
    assert bench.ask(p.AnnounceWeights(**me("l0", 2), update=old)).code == "bad_request"
    update = make_update(1, "r0", history=1)
    bench.ask(p.AnnounceWeights(**me("l0", 2), update=update))
    watch = p.WatchWeights(**me("r0"), seen_serial=1, wait_s=0)
    assert bench.ask(watch) == p.Announcement(serial=2, update=update)
    bench.ask(p.AckWeights(**me("r0"), history=0, version=2))  # late
    assert bench.reply(tag) is None
    bench.ask(p.AckWeights(**me("r0"), history=1, version=1))
    assert [granted.attempt for granted in bench.reply(tag).leases] == [1, 1]


def test_ranks_wait_for_each_other() -> None:
    bench = Bench(make_rules(2))
    bench.hello("l0", "l1", "r0")
    submit(bench, "r0", bench.ask(lease("r0")))
    for rank in (0, 1):
        take = p.TakeBatch(**me(f"l{rank}"), step=1, rank=rank, world_size=2, wait_s=0)
        assert bench.ask(take).num_groups == 1
    tag = bench.send(p.AckBatch(**me("l0"), step=1, batch_id=1, rank=0, wait_s=60))
    assert bench.reply(tag) is None
    assert bench.ask(p.AckBatch(**me("l1"), step=1, batch_id=1, rank=1)).is_complete
    assert bench.reply(tag) == p.Acknowledged(step=1, is_complete=True)


def test_beyond_its_room_the_broker_takes_in_only_what_the_next_step_needs() -> None:
    size = len(
        encode(make_group(lease_of(Entry(0, make_source(1).at(0), attempt=0), make_rules()), 0))
    )
    bench = Bench(make_rules(2, 1), max_held_bytes=int(1.5 * size) + 100)
    bench.hello("r0", "l0")
    granted = bench.ask(lease("r0")).leases
    answers = [
        bench.ask(submission(me("r0"), make_group(each, 0, tokens=10))) for each in granted[::-1]
    ]
    codes = [getattr(o, "code", o) for answer in answers for o in answer.outcomes]
    assert codes == ["accepted", "over_capacity", "accepted", "accepted"]
    train(bench, 1)
    again = bench.ask(submission(me("r0"), make_group(granted[2], 0, tokens=10)))
    assert again.outcomes == ACCEPTED


def test_the_status_balances_and_tells_lengths() -> None:
    bench = Bench(make_rules(2))
    bench.hello("r0", "l0")
    submit(bench, "r0", bench.ask(lease("r0")))
    train(bench, 1)
    bench.ask(p.CommitStep(**me("l0"), step=1, oldest=0))
    status = bench.ask(p.GetStatus())
    counts = status.counts
    for unit in ("samples", "trajectories", "tokens"):
        places = ("in_flight", "waiting", "trained", "expired", "quarantined")
        assert counts[f"{unit}_issued"] == sum(counts[f"{unit}_{place}"] for place in places)
    assert status.trained_lengths == {"4": 4} and status.expired_lengths == {}
    assert (status.version, status.history, status.committed) == (1, 0, 1)


def test_a_restarted_broker_learns_a_member_s_ranks_from_its_next_heartbeat() -> None:
    bench = Bench(make_rules())
    bench.ask(p.Hello(member_id="r0", role=p.Role.ROLLOUT, incarnation=1, ranks=4))
    bench.hello("l0")
    watch = p.WatchMembers(**me("l0"), at_least=1, wait_s=0)
    assert bench.ask(watch).ranks == {"r0": 4}
    bench.service.membership.restore(("r0", 1), p.Role.ROLLOUT, 0.0)
    assert bench.ask(watch).ranks == {"r0": 0}
    bench.ask(p.Heartbeat(**me("r0"), ranks=4))
    assert bench.ask(watch).ranks == {"r0": 4}


# ---- samples that are of no use ------------------------------------------------------------------
def give_back(bench: Bench, granted: GroupLease, reason: str = "/generate: HTTP 500: no") -> None:
    request = p.GiveBack(
        **me("r0"),
        group_id=granted.group_id,
        attempt=granted.attempt,
        reason=reason,
        blame=p.Blame.SAMPLE,
    )
    bench.ask(request)


def test_the_status_tells_what_is_tried_again_and_what_was_given_up() -> None:
    rows = DataRows(8, (RefusedRow(2, None, "box is empty"),), 1.0)
    bench = Bench(make_rules(3, max_attempts=2), rows=rows)
    bench.hello("r0", "l0")
    (granted,) = bench.ask(lease("r0", count=1)).leases
    give_back(bench, granted, "/generate:\nHTTP 500 \x1b[31m")
    data = bench.ask(p.GetStatus()).data
    assert (data.retried_groups, data.failed_attempts) == (1, 1)
    assert data.last_failure == f"sample {granted.sample.sample_id}: /generate: HTTP 500 ?[31m"
    (again,) = bench.ask(lease("r0", count=1)).leases
    give_back(bench, again)
    data = bench.ask(p.GetStatus()).data
    assert (data.rows, data.refused_rows, data.quarantined_samples) == (9, 1, 1)
    assert data.first == (
        "row 2: box is empty",
        f"sample {granted.sample.sample_id} quarantined after 2 attempts: /generate: HTTP 500: no",
    )
    assert (data.retried_groups, data.left_over_groups, data.all_groups) == (0, 1, 8)


def test_a_group_that_rests_is_leased_when_its_time_has_come_without_being_asked_again() -> None:
    bench = Bench(make_rules(1, first_rest_s=1.0))
    bench.hello("r0")
    (granted,) = bench.ask(lease("r0")).leases
    give_back(bench, granted)
    tag = bench.send(lease("r0", wait_s=60))
    assert bench.reply(tag) is None and bench.service.next_deadline() == 1.0
    bench.advance(1.0)
    assert [(x.group_id, x.attempt) for x in bench.reply(tag).leases] == [("0/0", 1)]


def test_a_server_that_becomes_idle_gets_the_suspect_that_its_held_request_waits_for() -> None:
    bench = Bench(make_rules(2, max_attempts=2))
    bench.hello("r0", "r1")
    bench.ask(lease("r1", count=1))
    bench.ask(p.Goodbye(**me("r1"), failure="the engine died (exit code 9)"))
    first = bench.ask(lease("r0", count=1))
    assert [granted.alone for granted in first.leases] == [True]
    tag = bench.send(lease("r0", wait_s=60))
    assert bench.reply(tag) is None
    submit(bench, "r0", first)
    assert [granted.alone for granted in bench.reply(tag).leases] == [False]


def test_a_goodbye_after_a_failure_is_explained_by_the_sample_that_it_quarantines() -> None:
    bench = Bench(make_rules(2, max_attempts=2))
    for life, is_explained in ((1, False), (2, True)):
        bench.hello("r0", incarnation=life)
        request = p.LeaseRequest(
            **me("r0", life), max_groups=1, history=0, serving_version=0, wait_s=0
        )
        assert len(bench.ask(request).leases) == 1
        done = bench.ask(p.Goodbye(**me("r0", life), failure="the engine died"))
        assert done.is_explained == is_explained
    (record,) = bench.service.quarantined
    assert record.reason == "r0: the engine died (nothing else was under way on its server)"


def test_too_many_samples_of_no_use_end_the_run_with_the_reason() -> None:
    bench = Bench(make_rules(2, max_attempts=1), rows=DataRows(8, (), 0.25))
    bench.hello("r0", "l0")
    watch = bench.send(p.WatchWeights(**me("r0"), seen_serial=0, wait_s=60))
    for number in range(3):
        assert not bench.service.is_finished, number
        (granted,) = bench.ask(lease("r0", count=1)).leases
        give_back(bench, granted)
    assert bench.service.is_finished and bench.reply(watch).finished
    status = bench.ask(p.GetStatus())
    assert status.finished
    assert status.data.ended_because.startswith(
        "of 8 rows of data.train 3 quarantined; data.max_refused_share = 0.25 allows 2: sample "
    )


def test_the_learner_s_refusals_count_towards_the_limit() -> None:
    bench = Bench(make_rules(2), rows=DataRows(8, (), 0))
    bench.hello("r0", "l0")
    leases = bench.ask(lease("r0"))
    submit(bench, "r0", leases)
    batch = bench.ask(p.TakeBatch(**me("l0"), step=1, wait_s=0))
    refused = {leases.leases[0].group_id: "prompt tokens differ\nfrom the learner's"}
    bench.ask(p.AckBatch(**me("l0"), step=1, batch_id=batch.batch_id, refused=refused))
    data = bench.ask(p.GetStatus()).data
    sample_id = leases.leases[0].sample.sample_id
    line = f"sample {sample_id} quarantined by the learner: prompt tokens differ from the learner's"
    assert data.first == (line,) and line in data.ended_because
