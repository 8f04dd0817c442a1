"""Each thing that a run can wait for has its line, and the line says since when."""

import functools
from dataclasses import replace
from typing import Any

import pytest

from broker.protocol import MemberStatus, Role
from deploy.showing.situation import Look, Situation, waits
from deploy.supervision.process_table import Entry
from tests.deploy import statuses
from tests.deploy.showing.support import status

member = functools.partial(statuses.member, version=12)  # that which `status` has
URLS = ("http://a:1", "http://b:2")


def entry(name: str, state: Any = "up") -> Entry:
    return Entry(name=name, state=state, since=0.0)


ALL = tuple(entry(name) for name in ("broker", "learner-0", "rollout-0"))
LEARNER = member("learner-0", Role.LEARNER)
AT_WORK = status({}).model_copy(update={"members": (LEARNER, member("rollout-0", Role.ROLLOUT))})
WORKING = Look(AT_WORK, 0.0, ALL)


def with_members(*members: MemberStatus, **changes: Any) -> Look:
    state = AT_WORK.model_copy(update={"members": members, **changes})
    return replace(WORKING, status=state)


def learner(doing: float) -> MemberStatus:
    return member("learner-0", Role.LEARNER, doing=doing)


@pytest.mark.parametrize(
    ("look", "lines"),
    [
        (WORKING, []),
        (replace(WORKING, status=None, processes=()), ["starting: waiting for the broker"]),
        (
            replace(WORKING, status=None, processes=(entry("broker", "waiting for a place"),)),
            ["starting: waiting for the broker (waiting for a place)"],
        ),
        (
            replace(WORKING, status=None),
            ["starting: waiting for the broker, which reads data and journal"],
        ),
        (replace(WORKING, answered_s=21.0), ["waiting for the broker: no answer"]),
        (
            with_members(*AT_WORK.members, store_failure="No space left on device. Fix: free it"),
            ["waiting for the disk: No space left on device. Fix: free it"],
        ),
        (
            with_members(member("rollout-0", Role.ROLLOUT)),
            ["waiting for learner-0, which loads the model"],
        ),
        (with_members(LEARNER), ["waiting for the engine of rollout-0"]),
        (
            replace(with_members(LEARNER), engine_urls=URLS[:1]),
            ["waiting for the engine http://a:1 (rollout-0)"],
        ),
        (
            replace(with_members(LEARNER, member("rollout-0.0", Role.ROLLOUT)), engine_urls=URLS),
            ["waiting for the engine http://b:2 (rollout-0.1)"],
        ),
        (
            replace(WORKING, processes=(*ALL, entry("rollout-1", "waiting for a place"))),
            ["waiting for rollout-1: waiting for a place"],
        ),
        (replace(WORKING, processes=(*ALL, entry("rollout-1", "given up"))), []),
        (
            with_members(LEARNER, member("rollout-0", Role.ROLLOUT, version=-1)),
            ["pushing weights 12 to rollout-0"],
        ),
        (
            with_members(learner(2.0), member("rollout-0", Role.ROLLOUT)),
            ["pushing weights 12"],
        ),
        (
            with_members(learner(1.0), member("rollout-0", Role.ROLLOUT)),
            ["waiting for the batch of step 13: 40 groups under way"],
        ),
        (
            replace(
                with_members(LEARNER),
                processes=(*ALL[:2], entry("rollout-0", "silent")),
                silent_s={"rollout-0": 21.0},
                limits_s={"rollout-0": 30.0},
            ),
            ["rollout-0: silent (it is replaced at 30 s)"],
        ),
        (
            replace(WORKING, is_stopping=True, processes=(*ALL[:1], entry("learner-0", "ending"))),
            ["draining: 40 groups under way, learner-0 ending; Ctrl-C again ends at once"],
        ),
        (
            replace(WORKING, is_stopping=True, status=None),
            ["draining: 0 groups under way; Ctrl-C again ends at once"],
        ),
    ],
)
def test_what_is_waited_for(look: Look, lines: list[str]) -> None:
    assert [wait.text for wait in waits(look)] == lines


def test_a_wait_is_as_old_as_it_is() -> None:
    situation, missing = Situation(), with_members(LEARNER)
    situation.look(missing, 100.0)
    assert list(situation.lines(0.0).values()) == ["waiting for the engine of rollout-0, since 0 s"]
    situation.look(missing, 112.0)
    assert list(situation.lines(10.0).values()) == [
        "waiting for the engine of rollout-0, since 12 s"
    ]
    assert situation.lines(13.0) == {}
    situation.look(WORKING, 113.0)
    situation.look(missing, 120.0)
    assert list(situation.lines(0.0).values()) == ["waiting for the engine of rollout-0, since 0 s"]


def test_a_silence_is_as_old_as_the_broker_says() -> None:
    situation = Situation()
    situation.look(replace(WORKING, silent_s={"rollout-0": 21.4}), 100.0)
    assert list(situation.lines(20.0).values()) == ["rollout-0: silent, since 21 s"]
