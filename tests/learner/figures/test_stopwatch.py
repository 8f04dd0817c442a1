from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.figures.stopwatch import Stopwatch, anchored

CPU = torch.device("cpu")


class Ticking:
    """A clock that goes where the test wants it to go, and that is read late, as a GPU's is."""

    def __init__(self) -> None:
        self.time = 100.0
        self.is_readable = False

    def mark(self) -> float:
        return self.time

    def seconds(self, earlier: float, later: float) -> float:
        assert self.is_readable, "the host would wait for the device"
        return later - earlier

    def moments(self, marks: Sequence[float]) -> list[float]:
        return [mark + 1000 for mark in marks]  # the host's clock is another


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def test_a_part_inside_another_one_is_taken_out_of_it(clock: Ticking):
    watch = Stopwatch(CPU, clock)
    with watch.part("outer"):
        clock.time += 1
        with watch.part("inner"):
            clock.time += 10
        clock.time += 2
    clock.time += 1000  # in no part
    with watch.part("outer"):
        clock.time += 4
    clock.is_readable = True
    assert watch.seconds == {"outer": 7.0, "inner": 10.0}


def test_parts_end_also_with_an_error(clock: Ticking):
    watch = Stopwatch(CPU, clock)
    with pytest.raises(ValueError), watch.part("outer"), watch.part("inner"):
        clock.time += 3
        raise ValueError
    with watch.part("outer"):
        clock.time += 1
    clock.is_readable = True
    assert watch.seconds == {"outer": 1.0, "inner": 3.0}


def test_the_same_part_may_be_inside_itself(clock: Ticking):
    watch = Stopwatch(CPU, clock)
    with watch.part("one"), watch.part("one"):
        clock.time += 5
    clock.is_readable = True
    assert watch.seconds == {"one": 5.0}


def test_on_a_cpu_the_parts_last_as_long_as_they_take():
    watch = Stopwatch(CPU)
    with watch.part("one"), watch.part("two"):
        pass
    assert set(watch.seconds) == {"one", "two"}
    assert all(0 <= seconds < 10 for seconds in watch.seconds.values())


def test_parts_are_known_as_they_followed_one_another(clock: Ticking):
    watch = Stopwatch(CPU, clock)
    with watch.part("outer"):
        clock.time += 1
        with watch.part("inner"):
            clock.time += 10
        clock.time += 2
    assert watch.spans() == [
        ("outer", 1100.0, 1101.0), ("inner", 1101.0, 1111.0), ("outer", 1111.0, 1113.0),
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
    st.floats(0, 100),
)
def test_events_of_a_stream_are_placed_where_the_device_can_have_passed_them(steps, start):
    """A device that begins idle and computes each piece once it is asked to and the one before is
    done: the first event finds it idle, so all are placed exactly."""
    asked, passed, host, device = [], [], start, start
    for waits, computes in steps:
        host += waits
        asked.append(host)
        device = max(device, host)
        passed.append(device)
        device += computes
    found = anchored(asked, [each - passed[0] for each in passed])
    assert found == pytest.approx(passed, abs=1e-9)
