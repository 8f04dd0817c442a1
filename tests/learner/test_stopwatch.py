import pytest
import torch

from learner.measuring.stopwatch import Stopwatch


class Ticking(Stopwatch):
    """Its clock goes where the test wants it to go."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.time = 100.0

    def _now(self) -> float:
        return self.time


def test_a_part_inside_another_one_is_taken_out_of_it():
    watch = Ticking()
    with watch.part("outer"):
        watch.time += 1
        with watch.part("inner"):
            watch.time += 10
        watch.time += 2
    watch.time += 1000  # in no part
    with watch.part("outer"):
        watch.time += 4
    assert watch.seconds == {"outer": 7.0, "inner": 10.0}


def test_parts_end_also_with_an_error():
    watch = Ticking()
    with pytest.raises(ValueError), watch.part("outer"), watch.part("inner"):
        watch.time += 3
        raise ValueError
    with watch.part("outer"):
        watch.time += 1
    assert watch.seconds == {"outer": 1.0, "inner": 3.0}


def test_the_same_part_may_be_inside_itself():
    watch = Ticking()
    with watch.part("one"), watch.part("one"):
        watch.time += 5
    assert watch.seconds == {"one": 5.0}
