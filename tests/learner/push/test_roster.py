"""Who is there for a push, decided from the broker's answers and given times alone."""

import logging

import pytest

from broker.protocol import Members, MemberStatus, Role, Status
from common.errors import WeightSyncError
from learner.push.roster import Peer, Roster

SILENCE_S, START_S, PATIENCE_S = 3.0, 10.0, 5.0


def make_roster(**served: int) -> Roster:
    roster = Roster(SILENCE_S, START_S)
    roster.note_members(members(**served))
    return roster


def members(**served: int) -> Members:
    return Members(acknowledged=served, ranks=dict.fromkeys(served, 1))


def status(**silent_s: float) -> Status:
    """The status of a broker that was told nothing else."""
    learner = member("learner-0", Role.LEARNER, 0.0)
    servers = (member(name, Role.ROLLOUT, seconds) for name, seconds in silent_s.items())
    return Status.model_construct(members=(learner, *servers))


def member(name: str, role: Role, silent_s: float) -> MemberStatus:
    return MemberStatus(
        member_id=name, role=role, silent_s=silent_s, acknowledged_version=-1, gauges={}, details={}
    )


def pushed(roster: Roster, version: int, now: float) -> None:
    roster.note_begun(roster.peers)
    roster.note_pushed(version, now)


# ---- wait_for ------------------------------------------------------------------------------------
def test_as_many_as_are_wanted_are_waited_for() -> None:
    roster = make_roster(a=-1)
    assert roster.wait_for(2, waited_s=START_S - 0.1) is None
    roster.note_members(members(a=-1, b=4))
    assert roster.wait_for(2, waited_s=0.0) == {"a": Peer(-1, 1), "b": Peer(4, 1)}


def test_when_time_is_up_fewer_will_do_and_none_will_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert make_roster(a=-1).wait_for(2, waited_s=START_S) == {"a": Peer(-1, 1)}
    assert "1 of 2 rollout servers are there" in caplog.text
    with pytest.raises(WeightSyncError, match=r"no rollout server came within 10 s.*Fix:"):
        make_roster().wait_for(2, waited_s=START_S)


def test_a_server_whose_ranks_a_restarted_broker_does_not_know_yet_takes_no_part() -> None:
    roster = Roster(SILENCE_S, START_S)
    roster.note_members(Members(acknowledged={"a": 3, "b": 3}, ranks={"a": 0, "b": 2}))
    assert roster.peers == {"b": Peer(3, 2)}


# ---- after a failure -----------------------------------------------------------------------------
def test_only_those_heard_of_since_a_failure_take_part_in_the_next_try() -> None:
    roster = make_roster(a=0, b=0, new=-1)
    roster.note_failed(["a", "b"])
    roster.suspect(status(a=SILENCE_S, b=SILENCE_S + 0.1))
    assert roster.lists_suspects and roster.peers.keys() == {"a", "new"}
    roster.clear(status(b=SILENCE_S + 9))
    assert roster.peers.keys() == {"a", "new"}
    roster.clear(status(b=0.0))
    assert roster.peers.keys() == {"a", "b", "new"} and not roster.lists_suspects


def test_a_suspect_that_is_listed_no_longer_is_no_reason_to_ask() -> None:
    roster = make_roster(a=0, b=0)
    roster.note_failed(["b"])
    roster.suspect(status(a=0.0))
    roster.note_members(members(a=0))
    assert not roster.lists_suspects


def test_a_push_in_which_all_failed_waits_for_a_return_and_ends() -> None:
    roster = make_roster(a=0)
    roster.note_failed(["a"])
    roster.suspect(status())
    assert roster.wait_for_return(7, waited_s=START_S) is None
    with pytest.raises(WeightSyncError, match=r"version 7: every rollout server failed.*Fix:"):
        roster.wait_for_return(7, waited_s=START_S + 0.1)
    roster.clear(status(a=0.0))
    assert roster.wait_for_return(7, waited_s=START_S + 0.1) == {"a": Peer(0, 1)}


# ---- behind --------------------------------------------------------------------------------------
def test_a_server_has_its_patience_to_acknowledge_a_push() -> None:
    roster = make_roster(a=-1, b=-1)
    pushed(roster, 0, now=100.0)
    roster.note_members(members(a=0, b=-1))
    assert roster.behind() == {"b"}
    assert roster.in_need(["a", "b"], PATIENCE_S, now=100.0 + PATIENCE_S) == set()
    assert roster.in_need(["a", "b"], PATIENCE_S, now=100.1 + PATIENCE_S) == {"b"}


def test_a_newcomer_is_in_need_at_once_and_so_is_one_that_restarted() -> None:
    roster = make_roster(a=-1, b=-1)
    pushed(roster, 0, now=100.0)
    roster.note_members(members(a=0, b=0))
    assert roster.in_need(["a", "b"], PATIENCE_S, now=100.0) == set()
    pushed(roster, 1, now=200.0)
    roster.note_members(members(a=1, b=1, new=-1))
    assert roster.in_need(["a", "b"], PATIENCE_S, now=200.0) == {"new"}
    roster.note_members(members(a=1, b=-1))  # it has served: its weights went with its process
    assert roster.in_need(["a", "b"], PATIENCE_S, now=200.0) == {"b"}


def test_no_server_is_behind_before_the_first_push() -> None:
    assert make_roster(a=-1).behind() == set()
