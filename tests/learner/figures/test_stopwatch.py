import pytest
import torch

from learner.figures.stopwatch import Stopwatch

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
