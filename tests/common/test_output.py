"""Commands whose output nobody reads any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    ("deploy.launch", "--help"),
    ("deploy.launch", "--dry-run"),
    ("broker.main", "--help"),
    ("deploy.logs", "RUN"),
    ("deploy.status", "RUN"),
)
SHORT = """
import sys
from common.output import ends_with_its_reader
with ends_with_its_reader():
    print("a line")
    {rest}
"""
LONG = """
import os, sys
from common.output import goes_on_without_readers
with goes_on_without_readers():
    for _ in range(3):
        print("a line", flush=True)
        print("another one", file=sys.stderr, flush=True)
os.write(int(sys.argv[1]), b"went on")
"""


def without_reader(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run Python with a standard output whose reader has gone."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60,
            **options,  # type: ignore[call-overload]
        )  # fmt: skip
    finally:
        os.close(write_end)


@pytest.mark.parametrize("command", QUICK, ids=lambda command: " ".join(command))
def test_a_command_that_shows_something_ends_quietly(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "broker.log").write_text("2026-01-01 00:00:00.000+00:00 INFO a: b\n")
    entry = '{"name": "broker", "state": "ended", "since": 1.0}'
    (tmp_path / "processes.json").write_text(f'{{"processes": [{entry}]}}')
    module, argument = command
    done = without_reader("-m", module, argument.replace("RUN", str(tmp_path)))
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_connection_is_not_taken_for_its_output() -> None:
    rest = "raise BrokenPipeError('a socket')"
    code = SHORT.format(rest=rest)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "BrokenPipeError: a socket" in done.stderr


@pytest.mark.parametrize(("rest", "expected"), [("", 141), ("sys.exit(5)", 141)])
def test_the_last_lines_may_be_those_that_nobody_reads(rest: str, expected: int) -> None:
    done = without_reader("-c", SHORT.format(rest=rest or "pass"))
    assert (done.returncode, done.stderr) == (expected, "")


def test_what_is_to_go_on_goes_on() -> None:
    read_end, write_end = os.pipe()
    done = without_reader("-c", LONG, str(write_end), pass_fds=[write_end])
    os.close(write_end)
    assert done.returncode == 0 and os.read(read_end, 100) == b"went on"
    os.close(read_end)
    assert done.stderr == "another one\n" * 3


def test_an_output_on_a_full_disk_is_dropped() -> None:
    read_end, write_end = os.pipe()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LONG, str(write_end)],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, pass_fds=[write_end],
        )  # fmt: skip
    os.close(write_end)
    assert os.read(read_end, 100) == b"went on" and "Traceback" not in done.stderr
    os.close(read_end)
