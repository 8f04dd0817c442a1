import pytest

from broker.ledger.refusal import Refusal
from broker.ledger.servers import Servers
from broker.protocol import Hello, Role, Welcome
from broker.service import membership
from broker.service.membership import MAX_MEMBERS, Membership
from tests.broker.support import make_rules, make_service, make_source


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
    assert members.join(hello(incarnation=1), 2) is None  # hello sent twice
    replaced = members.join(hello(incarnation=2), 3)
    assert replaced is not None and replaced.owner == ("rollout-0", 1)
    assert len(members) == 1
    with pytest.raises(Refusal) as refused:
        members.seen("rollout-0", 1, 4)
    assert refused.value.code == "superseded"


@pytest.mark.parametrize("has_lapsed", [False, True])
def test_a_late_hello_of_an_earlier_life_brings_nobody_back(has_lapsed: bool) -> None:
    members = Membership(timeout_s=10)
    members.restore(("learner-0", 1), Role.LEARNER, 0)
    if has_lapsed:
        assert [m.incarnation for m in members.lapse(10)] == [1]
    members.join(hello("learner-0", 2, Role.LEARNER), 11)
    with pytest.raises(Refusal) as refused:
        members.join(hello("learner-0", 1, Role.LEARNER), 12)
    assert refused.value.code == "superseded"
    assert members.find(("learner-0", 2)) is not None
    members.lapse(99)
    members.join(hello("learner-0", 2, Role.LEARNER), 100)  # it was only cut off


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


def test_nobody_changes_role_under_the_same_name() -> None:
    members = Membership(timeout_s=10)
    members.join(hello(role=Role.LEARNER), 0)
    with pytest.raises(Refusal) as refused:
        members.join(hello(incarnation=2), 1)
    assert refused.value.code == "wrong_role"


def test_nobody_keeps_the_learner_out() -> None:
    """Neither by its name nor by a crowd."""
    members = Membership(timeout_s=10)
    members.join(hello(), 0)
    replaced = members.join(hello(incarnation=2, role=Role.LEARNER), 1)
    assert replaced is not None and replaced.role is Role.ROLLOUT
    for number in range(1, MAX_MEMBERS):
        members.join(hello(f"x-{number}"), 1)
    with pytest.raises(Refusal, match="4096 members"):
        members.join(hello("one-more"), 1)
    members.join(hello("learner-1", role=Role.LEARNER), 1)


def test_restored_members_have_a_while_to_be_heard_of() -> None:
    members = Membership(timeout_s=10)
    members.restore(("rollout-0", 7), Role.ROLLOUT, 100)
    assert members.seen("rollout-0", 7, 105).role is Role.ROLLOUT
    assert members.lapse(114) == [] and len(members.lapse(115)) == 1


def test_serving_floor_is_the_oldest_version_of_any_server_that_serves() -> None:
    servers = Servers()
    first, second = ("rollout-0", 1), ("rollout-1", 1)
    assert servers.floor() is None
    servers.add(first)
    assert servers.floor() is None
    assert servers.acknowledge(first, 3) and not servers.acknowledge(first, 2)
    servers.add(second)  # serves nothing yet, so it holds nobody up
    assert servers.floor() == 3
    assert servers.acknowledge(second, 2) and servers.floor() == 2
    assert servers.all() == {first: 3, second: 2} and len(servers) == 2
    servers.remove(second)
    assert servers.floor() == 3 and not servers.acknowledge(second, 5)
    servers.forget_versions()
    assert servers.floor() is None and servers.version_of(first) == -1


@pytest.mark.parametrize(("timeout_s", "heartbeat_s"), [(4.0, 1.0), (20.0, 2.0), (120.0, 2.0)])
def test_members_are_told_how_often_they_are_to_be_heard_of(
    timeout_s: float, heartbeat_s: float
) -> None:
    service = make_service(make_source(4), make_rules(), member_timeout_s=timeout_s)
    (reply,) = service.handle(b"", b"1", hello(), 0.0)
    assert isinstance(reply.message, Welcome) and reply.message.heartbeat_s == heartbeat_s


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_MEMBERS", 2)
    members = Membership(timeout_s=10)
    members.join(hello("rollout-0"), 0)
    members.join(hello("rollout-1"), 0)
    with pytest.raises(Refusal, match="2 members already"):
        members.join(hello("rollout-2"), 0)
    assert members.join(hello("rollout-1", incarnation=2), 0) is not None  # a restart is no growth


def test_those_lost_by_silence_are_told_until_they_come_back_or_say_goodbye() -> None:
    members = Membership(timeout_s=20.0)
    for name, now in (("a", 0.0), ("b", 5.0)):
        members.join(hello(name, 1), now)
    assert members.lost(19.0) == {}
    members.lapse(26.0)
    assert members.lost(30.0) == {"a": 30.0, "b": 25.0}
    members.join(hello("a", 1), 31.0)
    assert members.lost(31.0) == {"b": 26.0}
    members.leave(("b", 1))
    assert members.lost(32.0) == {}
