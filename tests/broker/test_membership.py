import pytest

from broker import membership
from broker.membership import Membership
from broker.protocol import Hello, Role
from broker.refusal import Refusal


def hello(name: str = "rollout-0", incarnation: int = 1, role: Role = Role.ROLLOUT) -> Hello:
    return Hello(member_id=name, role=role, incarnation=incarnation)


def test_members_lapse_in_the_order_of_their_last_sign_of_life() -> None:
    members = Membership(timeout_s=10)
    members.join(hello("rollout-0"), 0)
    members.join(hello("rollout-1"), 1)
    members.seen("rollout-0", 1, 5)
    assert members.next_deadline() == 11 and members.lapse(10.9) == []
    assert [m.member_id for m in members.lapse(11)] == ["rollout-1"]
    assert [m.member_id for m in members.lapse(99)] == ["rollout-0"]
    assert members.next_deadline() is None and len(members) == 0


def test_a_new_incarnation_replaces_the_old_one() -> None:
    members = Membership(timeout_s=10)
    assert members.join(hello(incarnation=1), 0) is None
    members.seen("rollout-0", 1, 1).acknowledged_version = 4
    assert members.join(hello(incarnation=1), 2) is None  # hello sent twice
    assert members.acknowledged() == {"rollout-0": 4}
    replaced = members.join(hello(incarnation=2), 3)
    assert replaced is not None and replaced.owner == ("rollout-0", 1)
    assert members.acknowledged() == {"rollout-0": -1} and len(members) == 1
    with pytest.raises(Refusal) as refused:
        members.seen("rollout-0", 1, 4)
    assert refused.value.code == "superseded"


def test_strangers_and_those_who_left_are_unknown() -> None:
    members = Membership(timeout_s=10)
    members.join(hello(), 0)
    assert members.leave(("rollout-0", 2)) is None  # another life's goodbye
    assert members.leave(("rollout-0", 1)) is not None
    assert members.leave(("rollout-0", 1)) is None
    with pytest.raises(Refusal) as refused:
        members.seen("rollout-0", 1, 1)
    assert refused.value.code == "unknown_member"


def test_looking_a_member_up_is_no_sign_of_life() -> None:
    members = Membership(timeout_s=10)
    members.join(hello(), 0)
    assert members.find(("rollout-0", 1)) is not None and members.find(("rollout-0", 2)) is None
    assert members.next_deadline() == 10


def test_serving_floor_is_the_oldest_version_of_any_server_that_serves() -> None:
    members = Membership(timeout_s=10)
    assert members.serving_floor() is None
    members.join(hello("learner-0", role=Role.LEARNER), 0)
    members.join(hello("rollout-0"), 0)
    assert members.serving_floor() is None
    members.seen("rollout-0", 1, 0).acknowledged_version = 3
    members.join(hello("rollout-1"), 0)  # serves nothing yet, so it holds nobody up
    assert members.serving_floor() == 3
    members.seen("rollout-1", 1, 0).acknowledged_version = 2
    assert members.serving_floor() == 2
    assert members.acknowledged() == {"rollout-0": 3, "rollout-1": 2}


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_MEMBERS", 2)
    members = Membership(timeout_s=10)
    members.join(hello("rollout-0"), 0)
    members.join(hello("rollout-1"), 0)
    with pytest.raises(Refusal, match="2 members already"):
        members.join(hello("rollout-2"), 0)
    assert members.join(hello("rollout-1", incarnation=2), 0) is not None  # a restart is no growth
