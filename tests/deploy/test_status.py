from pathlib import Path

import pytest

import deploy.status
from deploy.showing.picture import duration
from deploy.status import main, text
from deploy.supervision.launcher_api import listening
from deploy.supervision.process_table import End as TableEnd
from deploy.supervision.process_table import Entry, ProcessTable
from tests.deploy.showing.support import GAUGES, status

NOW = 10_000.0
ENTRIES = [
    Entry(name="broker", state="up", since=NOW - 42, node="127.0.0.1", pid=12),
    Entry(
        name="rollout-10",
        state="waiting for a place",
        since=NOW - 7200 - 600,
        restarts=2,
        ends=(
            TableEnd(time=NOW - 9000, why="failed with exit code 1"),
            TableEnd(time=NOW - 7900, why="was lost together with its machine or Ray worker"),
        ),
    ),
]


def test_a_row_a_process_and_why_it_was_started_again() -> None:
    assert text(ENTRIES, NOW).splitlines() == [
        "process     state                       for  where      pid  restarts",
        "broker      up                         42 s  127.0.0.1   12         0",
        "rollout-10  waiting for a place  2 h 10 min  -            -         2",
        "",
        "started again because it (latest first):",
        "rollout-10  2 h 11 min ago  was lost together with its machine or Ray worker",
        "rollout-10  2 h 30 min ago  failed with exit code 1",
    ]
    assert max(map(len, text(ENTRIES, NOW).splitlines())) <= 80


def test_nothing_is_said_of_restarts_when_there_were_none() -> None:
    assert "started again" not in text(ENTRIES[:1], NOW)
    assert text([], NOW).startswith("process")


def test_the_latest_ends_of_all_are_shown() -> None:
    ends = tuple(TableEnd(time=NOW - 100 * number, why=f"end {number}") for number in range(9))
    many = [Entry(name=f"rollout-{n}", state="up", since=NOW, ends=ends) for n in range(3)]
    shown = text(many, NOW).partition("latest first):\n")[2].splitlines()
    assert len(shown) == 10
    assert sum("end 0" in line for line in shown) == 3


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((-5, "0 s"), (0.4, "0 s"), (89.4, "89 s"), (90, "1 min"), (5399, "89 min")),
        *((5400, "1 h 30 min"), (47 * 3600 + 60, "47 h 1 min"), (50 * 3600, "2 d 2 h")),
    ],
)
def test_durations_are_short(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["status", str(folder)])
    main()


def test_a_folder_without_a_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        show(tmp_path, monkeypatch)
    assert caught.value.code == 2
    assert "holds no processes.json. Fix:" in capsys.readouterr().err


def test_a_run_that_is_over_or_was_killed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ProcessTable(tmp_path / "processes.json")
    table.set("broker", "up", node="here", pid=1)
    show(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "broker   up" in said and "how it was when last written: no launcher runs" in said
    table.set("broker", "ended", pid=0)  # at once, before there was a summary
    show(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "the run has ended\nkept: no checkpoint yet\nto go on: " in said
    (tmp_path / "summary.json").write_text('{"interrupted": false}')
    show(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "the run has ended\nkept: " in said and "to go on" not in said


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_run_that_goes_on_says_how_far_it_is(tmp_path: Path, is_heard: bool) -> None:
    broker = status(GAUGES).model_dump_json() if is_heard else None
    answer = {"broker": broker, "elapsed_s": 61.0, "waits": ["rollout-0: silent, since 21 s"]}
    async with listening(tmp_path, lambda: answer, lambda wish: wish):
        said = await deploy.status.progress(tmp_path)
    if is_heard:
        assert said.startswith("1:01  training  step 12/60  loss 0.0421")
    else:
        assert said.startswith("the broker has not been heard yet\n")
    assert said.endswith("\nrollout-0: silent, since 21 s")
