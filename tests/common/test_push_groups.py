"""Joining in one process: its end, its thread, NCCL's setting. `tests/pipeline` has both sides."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d

from common.push_groups import PREFIX, Made, join, leave

TIMEOUT_S = 20.0
SETTING = "TORCH_NCCL_BLOCKING_WAIT"


def group_of_one(name: str) -> Made:
    return distributed_c10d._new_process_group_helper(
        1, 0, [], dist.Backend("gloo"), dist.HashStore(), group_name=name,
        timeout=timedelta(seconds=TIMEOUT_S),
    )  # fmt: skip


def is_known(name: str) -> bool:
    return name in distributed_c10d._world.pg_names.values()


@pytest.mark.parametrize("before", [None, "0"])
def test_a_groups_waits_are_told_to_end_and_no_other_groups(monkeypatch, before):
    monkeypatch.delenv(SETTING, raising=False)
    if before is not None:
        monkeypatch.setenv(SETTING, before)
    seen: list[str | None] = []

    def make() -> Made:
        seen.append(os.environ.get(SETTING))
        return group_of_one(f"{PREFIX}setting")

    group, _ = join(make, f"{PREFIX}setting", TIMEOUT_S)
    assert (seen, os.environ.get(SETTING)) == (["1"], before)
    leave(group)
    assert not is_known(f"{PREFIX}setting")


@pytest.mark.parametrize("before", [None, "0"])
@pytest.mark.parametrize("first_out", [0, 1])
def test_groups_made_at_once_leave_the_setting_as_it_was(monkeypatch, before, first_out):
    monkeypatch.delenv(SETTING, raising=False)
    if before is not None:
        monkeypatch.setenv(SETTING, before)
    made = [threading.Event(), threading.Event()]
    may_end = [threading.Event(), threading.Event()]

    def one(index: int) -> None:
        def make() -> Made:
            made[index].set()
            assert may_end[index].wait(TIMEOUT_S)
            assert os.environ[SETTING] == "1"
            return group_of_one(f"{PREFIX}at-once-{index}")

        group, _ = join(make, f"{PREFIX}at-once-{index}", TIMEOUT_S)
        leave(group)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(one, index) for index in range(2)]
        assert all(event.wait(TIMEOUT_S) for event in made)
        for index in (first_out, 1 - first_out):
            may_end[index].set()
            both[index].result(TIMEOUT_S)
    assert os.environ.get(SETTING) == before


def test_all_of_it_runs_in_a_thread_of_its_own_within_what_it_is_given():
    events: list[tuple[str, bool]] = []

    def note(event: str) -> None:
        events.append((event, threading.current_thread() is threading.main_thread()))

    @contextmanager
    def within() -> Iterator[None]:
        note("enter")
        yield
        note("leave")

    def make() -> Made:
        note("make")
        return group_of_one(f"{PREFIX}within")

    group, _ = join(make, f"{PREFIX}within", TIMEOUT_S, within)
    assert events == [("enter", False), ("make", False), ("leave", False)]
    leave(group)


def waiting_for(event: threading.Event, then: Callable[[], Made]) -> Callable[[], Made]:
    """Stands where NCCL waits in C++ for a rank that does not come."""

    def make() -> Made:
        assert event.wait(TIMEOUT_S)
        return then()

    return make


def the_thread(name: str) -> threading.Thread:
    (found,) = (one for one in threading.enumerate() if one.name == f"join {name}")
    return found


def test_a_call_that_does_not_return_is_given_up_and_what_it_makes_later_is_taken_away():
    name, event = "late", threading.Event()  # its greeting would fail by itself, so late
    with pytest.raises(RuntimeError, match=r"group late joined within 0\.05 s\. Fix: see"):
        join(waiting_for(event, lambda: group_of_one(name)), name, 0.05)
    thread = the_thread(name)
    assert thread.daemon, "it must hold up no process's end"
    event.set()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive() and not is_known(name)


def test_a_call_that_fails_later_says_so_to_nobody():
    name, event = f"{PREFIX}fails", threading.Event()

    def fail() -> Made:
        raise ValueError("nobody asks any more")

    with pytest.raises(RuntimeError, match="Fix: see"):
        join(waiting_for(event, fail), name, 0.05)
    thread = the_thread(name)
    event.set()
    thread.join(TIMEOUT_S)  # an exception that left the thread would fail this test
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [ValueError("used"), TimeoutError("of its own")])
def test_what_goes_wrong_in_time_is_told(error):
    def make() -> Made:
        raise error

    with pytest.raises(type(error), match=str(error)):
        join(make, f"{PREFIX}wrong", TIMEOUT_S)
