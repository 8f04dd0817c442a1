"""The line that says how far an evaluation is."""

import io

from rollout.evaluation.progress import ItemProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_time_left_is_told_by_what_was_asked_now() -> None:
    times = iter([0.0, *([10.0] * 100)])
    progress = ItemProgress("vstar", 191, io.StringIO(), lambda: next(times))
    for number in range(100):
        progress.count(was_asked=number >= 50, has_failed=number == 60)
    times = iter([10.0])
    assert progress.line() == "vstar: 100 of 191, 1 failed, 5 a second, 18 s left"


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    seconds = [0.0]
    stream = io.StringIO()
    progress = ItemProgress("x", 40, stream, lambda: seconds[0])
    for second in range(1, 41):
        seconds[0] = float(second)
        progress.count(was_asked=False, has_failed=False)
    progress.end()
    assert stream.getvalue() == "x: 15 of 40\nx: 30 of 40\nx: 40 of 40\n"


def test_on_a_terminal_one_line_changes() -> None:
    seconds = [0.0]
    stream = Terminal()
    progress = ItemProgress("x", None, stream, lambda: seconds[0])
    seconds[0] = 2.0
    progress.count(was_asked=True, has_failed=False)
    progress.end()
    assert stream.getvalue() == "\rx: 1, 0.5 a second\033[K\rx: 1, 0.5 a second\033[K\n"
