"""One view of all logs of a run: merged, followed through rotation, bounded.

Holds common/logs.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.log_files import RotatingLog
from common.logs import time_stamp
from deploy import logs as module
from deploy.logs import RunLogs, history, main
from deploy.showing.log_reading import Line, LogSource, merged, time_of
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 24, 12, 0, 0).timestamp()  # of this machine


def stamped(seconds: float, text: str) -> str:
    return f"{time_stamp(NOON + seconds)} INFO    x: {text}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def write(run: Path, name: str, *lines: str) -> None:
    with (run / "logs" / name).open("a") as file:
        file.writelines(lines)


def shown(capfd: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    main([str(argument) for argument in arguments])
    return capfd.readouterr().out.splitlines()


# ---- times ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-11-24 12:00:01,250 INFO    broker x: y", NOON + 1.25),
        ("[2026-11-24 12:00:01] server_args=", NOON + 1),
        ("[2026-11-24 12:00:01 TP0] Decode batch", NOON + 1),
        ("\x1b[32m2026-11-24 12:00:01 coloured", NOON + 1),
        ("2026-11-24 12:00:01.5+00:00 x", datetime(2026, 11, 24, 12, 0, 1, 500000, UTC)),
        ("2026-11-24T12:00:01Z x", datetime(2026, 11, 24, 12, 0, 1, 0, UTC)),
        ("2026-11-24 12:00:01.000+05:30 x", datetime(2026, 11, 24, 6, 30, 1, 0, UTC)),
        ("Traceback (most recent call last):", None),
        ("2026-13-24 12:00:01 no such month", None),
        ("  2026-11-24 12:00:01 indented", None),
        ("", None),
    ],
)
def test_the_times_of_all_our_formats_are_read(
    line: str, expected: float | datetime | None
) -> None:
    found = time_of(line.encode())
    if isinstance(expected, datetime):
        expected = expected.timestamp()
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_our_stamps_say_their_zone_and_are_read_back_anywhere() -> None:
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        code = "from common.logs import time_stamp; print(time_stamp(1795521600.4567))"
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "TZ": zone},
            capture_output=True, check=True,
        )  # fmt: skip
        assert time_of(ended.stdout) == pytest.approx(1795521600.456, abs=1e-6)


def test_a_process_logs_with_such_a_stamp() -> None:
    code = (
        "import logging; from common.logs import configure_logging; configure_logging('learner');"
        "logging.getLogger('a').info('hello')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert time_of(ended.stderr) == pytest.approx(time.time(), abs=20)
    assert ended.stderr.endswith(b" INFO    learner a: hello\n")


def test_a_message_is_one_line_that_no_terminal_obeys() -> None:
    """Peers' texts come into messages: none may look like a line of its own."""
    code = (
        "import logging; from common.logs import configure_logging; configure_logging('broker');"
        "logging.getLogger('a').warning('%s', 'x\\n2026-01-01 forged\\x1b]0;title\\x07\\u2028\\ty')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert ended.stderr.endswith(rb"broker a: x\n2026-01-01 forged\x1b]0;title\x07\u2028" b"\ty\n")


def test_what_a_log_holds_does_not_command_the_terminal(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(run, "engine-0.log", stamped(1, "\x1b[32mgreen\x1b[0m \x1b]0;title\x07 \x9b2J\ttab é"))
    (line,) = shown(capfd, run)
    assert line.endswith("green ?]0;title? ?2J\ttab é")


# ---- merging -------------------------------------------------------------------------------------
def test_lines_are_merged_by_time_and_tracebacks_stay_whole(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(run, "learner.log", stamped(1, "one"), "Traceback:\n", "  boom\n", stamped(4, "four"))
    write(run, "broker.log", stamped(0, "zero"), stamped(1.5, "later"), stamped(5, "five"))
    write(run, "engine-0.log", "[2026-11-24 12:00:03 TP0] three\n", "  and more\n")
    ends = [(line.split()[0], line.split()[-1]) for line in shown(capfd, run)]
    assert ends == [
        ("broker", "zero"), ("learner", "one"), ("learner", "Traceback:"), ("learner", "boom"),
        ("broker", "later"), ("engine-0", "three"), ("engine-0", "more"), ("learner", "four"),
        ("broker", "five"),
    ]  # fmt: skip


def test_the_text_of_a_line_begins_in_one_column_and_has_no_colour_in_a_pipe(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(run, "a.log", "2026-11-24 12:00:00 first\r\n")
    write(run, "rollout-10.log", "2026-11-24 12:00:01 x\n", " 10%\r 50%\r100%\n", "no end")
    assert shown(capfd, run) == [
        "a          | 2026-11-24 12:00:00 first",
        "rollout-10 | 2026-11-24 12:00:01 x",
        "rollout-10 | 100%",
        "rollout-10 | no end",
    ]


def test_lines_before_the_first_time_come_with_it(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(run, "a.log", stamped(0, "a"), stamped(20, "b"))
    write(run, "b.log", "banner\n", stamped(10, "c"))
    write(run, "c.log", "config error: no time at all\n")
    os.utime(run / "logs" / "c.log", (NOON + 15, NOON + 15))
    assert [line.split()[-1] for line in shown(capfd, run)] == ["a", "banner", "c", "all", "b"]


def test_older_files_are_read_first(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = RotatingLog(run / "logs" / "a.log", max_bytes=150, files=50)
    for i in range(60):
        log.write(stamped(i, f"line-{i}").encode())
    log.close()
    assert len(list((run / "logs").iterdir())) > 15
    assert [line.split()[-1] for line in shown(capfd, run)] == [f"line-{i}" for i in range(60)]
    last = shown(capfd, run, "--lines", 7)
    assert [line.split()[-1] for line in last] == [f"line-{i}" for i in range(53, 60)]


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 5, 8, 11, 100])
def test_the_last_lines_are_those_of_the_whole(
    run: Path, capfd: pytest.CaptureFixture[str], lines: int
) -> None:
    write(run, "a.log", *(stamped(i, f"a{i}") + "  trace\n" for i in range(4)))
    write(run, "b.log", "head\n", *(stamped(i + 0.5, f"b{i}") for i in range(3)))
    write(run, "c.log")
    whole = shown(capfd, run)
    assert len(whole) == 12
    assert shown(capfd, run, "--lines", lines) == whole[max(0, 12 - lines) :]


def test_the_last_lines_of_a_large_log_are_found_from_its_end(run: Path) -> None:
    line = stamped(0, "x" * 200)
    write(run, "a.log", *[line] * 20_000, stamped(1, "before the end"), stamped(2, "end"))
    source = LogSource(run / "logs" / "a.log")
    source.start_at(2)
    assert [line.text[-3:] for line in merged([source])] == [b"end", b"end"]
    source.close()
    source = LogSource(run / "logs" / "a.log")
    source.start_at(1000)
    assert sum(1 for _ in merged([source])) == 1000
    source.close()


def test_since_leaves_out_what_is_older(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    write(run, "a.log", f"{time_stamp(now - 700)} old\n", f"{time_stamp(now - 500)} new\n")
    write(run, "b.log", f"{time_stamp(now - 9000)} very old\n")
    write(run, "b.log.1", f"{time_stamp(now - 9999)} older still\n")
    os.utime(run / "logs" / "b.log.1", (now - 9999, now - 9999))
    assert [line.split()[-1] for line in shown(capfd, run, "--since", "10m")] == ["new"]
    assert [line.split()[-1] for line in shown(capfd, run, "--since", "3h")] == [
        "still", "old", "old", "new",
    ]  # fmt: skip
    assert len(shown(capfd, run, "--since", "3h", "--lines", 2)) == 2


def test_only_shows_those_that_are_named(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("broker", "rollout-0", "rollout-12", "engine-0"):
        write(run, f"{name}.log", stamped(0, name))

    def names(*only: str) -> list[str]:
        return [line.split()[-1] for line in shown(capfd, run, "--only", *only)]

    assert names("rollout") == ["rollout-0", "rollout-12"]
    assert names("*-0", "broker") == ["broker", "engine-0", "rollout-0"]
    with pytest.raises(SystemExit) as ended:
        main([str(run), "--only", "rollout-7"])
    assert ended.value.code == 2
    assert "Fix: one of broker, engine-0, rollout-0, rollout-12" in capfd.readouterr().err


def test_a_folder_that_is_no_run_is_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit) as ended:
            main([str(folder)])
        error = capfd.readouterr().err
        assert ended.value.code == 2
        assert f"RUN = '{folder}' is no run folder" in error and "Fix:" in error


@pytest.mark.parametrize("option", [("--since", "soon"), ("--lines", "-3")])
def test_bad_options_are_named(
    run: Path, capfd: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(run), *option])
    assert ended.value.code == 2 and option[1] in capfd.readouterr().err


def test_memory_stays_bounded_however_long_logs_and_lines_are(run: Path) -> None:
    for name in ("a", "b", "c"):
        write(run, f"{name}.log", *(stamped(i, "x" * 100) for i in range(20_000)))
    write(run, "d.log", "progress without an end " * 200_000)
    tracemalloc.start()
    try:
        with RunLogs(run) as logs:
            num_lines = sum(1 for _ in history(logs, None, None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_lines > 60_000
    assert peak < 4 * 2**20  # of 13 MB


# ---- following -----------------------------------------------------------------------------------
class Followed:
    """`follow` in a thread, with what it has printed."""

    def __init__(self, run: Path) -> None:
        self.lines: list[Line] = []
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.follow, args=(run,))

    def follow(self, run: Path) -> None:
        with RunLogs(run) as logs:
            module.follow(logs, self, self.is_over.is_set, self.pause)  # type: ignore[arg-type]

    def pause(self, seconds: float) -> None:
        time.sleep(0.005)  # in place of `seconds`

    def know(self, names: Iterator[str]) -> None:
        pass

    def print(self, line: Line) -> None:
        self.lines.append(line)

    def flush(self) -> None:
        pass

    def texts(self) -> list[str]:
        return [line.text.decode().split()[-1] for line in self.lines]

    def wait(self, is_so: Callable[[], bool]) -> None:
        wait_until(is_so, report=lambda: self.texts()[-5:])


@contextmanager
def followed(run: Path) -> Iterator[Followed]:
    follower = Followed(run)
    follower.thread.start()
    try:
        yield follower
    finally:
        follower.is_over.set()
        follower.thread.join(LIMIT_S)
        assert not follower.thread.is_alive()


def test_following_goes_on_through_rotation_and_loses_nothing(run: Path) -> None:
    log = RotatingLog(run / "logs" / "a.log", max_bytes=500, files=60)
    with followed(run) as follower:
        for i in range(500):
            log.write(stamped(i, f"line-{i}").encode())
            if i % 50 == 0:
                follower.wait(lambda i=i: len(follower.lines) > i)  # type: ignore[misc]
        log.close()
        follower.wait(lambda: len(follower.lines) == 500)
    assert follower.texts() == [f"line-{i}" for i in range(500)]


def test_following_finds_processes_that_begin_later(run: Path) -> None:
    with followed(run) as follower:
        write(run, "rollout-0.log", stamped(0, "old"))
        follower.wait(lambda: follower.texts() == ["old"])
        write(run, "rollout-7.log", stamped(1, "resized"))
        follower.wait(lambda: follower.texts() == ["old", "resized"])
    assert follower.lines[-1].name == "rollout-7"


def test_following_waits_for_the_end_of_a_line(run: Path) -> None:
    write(run, "a.log", "2026-11-24 12:00:00 first ha")
    with followed(run) as follower:
        write(run, "b.log", stamped(0, "other"))
        follower.wait(lambda: follower.texts() == ["other"])
        write(run, "a.log", "lf\n")
        follower.wait(lambda: follower.texts() == ["other", "half"])


def test_following_survives_a_log_that_is_emptied_or_removed(run: Path) -> None:
    path = run / "logs" / "a.log"
    write(run, "a.log", stamped(0, "a-rather-long-line"))
    with followed(run) as follower:
        follower.wait(lambda: len(follower.lines) == 1)
        path.write_text("2026-11-24 12:00:01 short\n")
        follower.wait(lambda: follower.texts()[1:] == ["short"])
        path.unlink()
        write(run, "a.log", stamped(2, "anew"))
        follower.wait(lambda: follower.texts()[2:] == ["anew"])


@contextmanager
def started(run: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "deploy.logs", str(run), *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # As in a terminal, also when these tests run in the background of a script.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_follow_ends_with_the_run(run: Path) -> None:
    write(run, "learner.log", *(stamped(i, f"line-{i}") for i in range(60)))
    with started(run, "--follow") as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(50)]
        assert first[0].endswith("line-10\n") and first[-1].endswith("line-59\n")
        (run / "summary.json").write_text("{}")
        write(run, "learner.log", stamped(61, "done"), "last words")
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert out.splitlines()[0].endswith("done")
    assert out.splitlines()[1] == "learner | last words"
    assert err == f"-- the run is over ({run / 'summary.json'})\n"


def test_ctrl_c_ends_follow_quietly_also_of_a_run_that_was_over(run: Path) -> None:
    (run / "summary.json").write_text("{}")
    write(run, "learner.log", stamped(0, "hello"))
    with started(run, "--follow") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().endswith("hello\n")
        assert "waiting in case it is resumed" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT_S) == ("", "")
    assert process.returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error(run: Path) -> None:
    write(run, "a.log", *(stamped(i, "x" * 100) for i in range(5000)))
    with started(run) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(LIMIT_S) == 141  # as of a shell's own tools


def test_a_terminal_gets_colours(run: Path) -> None:
    write(run, "a.log", "2026-11-24 12:00:00 x\n")
    import pty

    reading, writing = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "deploy.logs", str(run)]
    for extra, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        subprocess.run(
            command, cwd=ROOT, stdout=writing, env=environment | extra, check=True, timeout=LIMIT_S
        )
        shown = os.read(reading, 1000)
        assert (b"\x1b[" in shown) is expected and b"12:00:00 x" in shown
    os.close(reading)
    os.close(writing)


def test_since_and_lines_are_counted_from_now() -> None:
    hour = timedelta(hours=1).total_seconds()
    assert [module._seconds(text) for text in ("90s", "2h", "1.5m", "1d")] == [
        90, 2 * hour, 90, 24 * hour,
    ]  # fmt: skip
