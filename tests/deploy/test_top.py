"""deploy.top as a person has it: on a terminal, in a pipe, beside a launcher's API."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config_cli import build, dump_toml
from common.files import replace_json
from deploy import top
from deploy.supervision.process_table import ProcessTable
from tests.deploy.on_a_terminal import ROOT, on_a_terminal
from tests.deploy.showing.support import GAUGES, status

COMMAND = (sys.executable, "-m", "deploy.top")
VIEWS = {
    "2": "2 rollout servers",
    "3": "lease lapsed",
    "4": "seconds of",
    "5": "it is hot",
    "?": "restarts and why",
    "1": "evidence crop",
}  # a word that only it has
ROW = {"step": 12, "time_s": 50.0, "learner/step_s": 1.0, "learner/wait_batch_s": 0.25,
       "learner/loss_nats": 0.25}  # fmt: skip


def answer(folder: Path, version: int) -> None:
    """Let the launcher say that the run is so far."""
    told = {
        "broker": status(GAUGES, version).model_dump_json(),
        "elapsed_s": 61.0,
        "waits": ["rollout-0: silent, since 21 s"],
    }
    replace_json(folder / "answer.json", told)


@contextlib.contextmanager
def launcher(folder: Path) -> Iterator[None]:
    """A launcher whose run is at step 12, until the block ends."""
    answer(folder, 12)
    program = ROOT / "tests/deploy/recorded_launcher.py"
    process = subprocess.Popen([sys.executable, program, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"listens\n"
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "mine"
    (run / "logs").mkdir(parents=True)
    (run / "config.toml").write_text(dump_toml(build({"run": {"folder": run}})))
    rows = [{**ROW, "step": step, "time_s": 2.0 * step} for step in range(1, 13)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "logs" / "learner-0.log").write_text(
        "2026-01-01 12:00:00.000+00:00 WARNING learner-0 x: it is hot\n"
    )
    table = ProcessTable(run / "processes.json")
    table.set("broker", "up", node="here", pid=1)
    return run


def end(folder: Path) -> None:
    ProcessTable(folder / "processes.json").set("broker", "ended")
    (folder / "summary.json").write_text('{"interrupted": false, "seconds": 70, "steps": 12}')


def test_keys_sizes_and_the_end_of_the_run_are_followed_and_the_terminal_comes_back(
    folder: Path,
) -> None:
    with on_a_terminal([*COMMAND, str(folder)], 80, 30) as terminal:
        with launcher(folder):
            terminal.see("step 12/60", "Rollout limits it: ", "silent, since 21 s", "q quit")
            assert not terminal.is_line_mode()
            for key, words in VIEWS.items():
                terminal.press(key)
                terminal.see(words)
            terminal.resize(160, 40)
            terminal.see("the last 12 steps", "evidence crop")
            answer(folder, 13)
            terminal.see("step 13/60")
        terminal.see("this is how it was when last written", "no launcher runs")
        end(folder)
        terminal.see("the run has ended", "kept: no checkpoint", "not running")
        terminal.press("q")
        assert terminal.end() == 0 and terminal.is_line_mode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_terminal_comes_back(folder: Path, number: signal.Signals) -> None:
    with on_a_terminal([*COMMAND, str(folder)]) as terminal:
        terminal.see("step 12")
        assert not terminal.is_line_mode()
        if number is signal.SIGINT:
            terminal.press("\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.end() == 0 and terminal.is_line_mode()
        assert "\x1b[?25h" in terminal.raw and "\x1b[?1049l" in terminal.raw  # cursor and screen


@pytest.mark.parametrize("goes_on", ["fg", "bg; read; fg"])
def test_ctrl_z_gives_the_shell_its_terminal_and_fg_takes_it_again(
    folder: Path, goes_on: str
) -> None:
    job = f"set -m; {' '.join(COMMAND)} {folder}; echo stopped $?; read; {goes_on}"
    job = f"{job}; echo again $?; read; fg; echo over $?"
    with on_a_terminal(["bash", "-c", job]) as terminal:
        terminal.see("step 12")
        terminal.press("\x1a")
        terminal.see("stopped 148")
        left = terminal.seen.partition("stopped 148")[0]
        assert terminal.is_line_mode()
        assert "\x1b[?25h" in left and "\x1b[?1049l" in left  # cursor and screen
        terminal.press("\n" * (1 + goes_on.count("read")))
        terminal.see("step 12")
        assert not terminal.is_line_mode() and "\x1b[?1049h" in terminal.seen
        terminal.press("\x1a")
        terminal.see("again 148")
        terminal.press("\n")
        terminal.see("step 12")
        terminal.press("q")
        terminal.see("over 0")


def test_in_a_pipe_it_prints_lines_and_ends_with_the_run(folder: Path) -> None:
    with launcher(folder):
        process = subprocess.Popen([*COMMAND, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [process.stdout.readline()]
        answer(folder, 13)
        while "step 13/60" not in told[-1]:
            told.append(process.stdout.readline())
            assert told[-1], told
    end(folder)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert told[0].startswith("1:01  training  step 12/60")
    assert "1:01  rollout-0: silent, since 21 s\n" in told
    assert rest.splitlines()[-2:] == ["the run has ended", "kept: no checkpoint yet"]
    assert "\x1b" not in "".join([*told, rest])


def test_lines_end_when_the_launcher_has_gone_without_an_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(top, "_LOOK_S", 0.01)
    with pytest.raises(SystemExit, match="1"):
        top.main([str(folder), "--plain"])
    assert "this is how it was when last written: no launcher runs" in capsys.readouterr().out


@pytest.mark.parametrize("view", ["overview", "servers", "queue", "learner", "logs"])
def test_once_is_one_picture(
    folder: Path, view: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        top.main([str(folder), "--once", "--view", view])
    text = capsys.readouterr().out
    assert text.count("no launcher runs") == 1 and {len(line) for line in text.splitlines()} == {80}


def test_no_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        top.main([str(tmp_path)])
    assert f"error: RUN = {str(tmp_path)!r} holds no run. Fix:" in capsys.readouterr().err


DAMAGED = {
    "metrics.jsonl": ("{nothing}\n", "no row of figures"),
    "config.toml": ("[run]\nfolder = 3\nold_key = 4\n", "old_key"),
    "summary.json": ('{"half', "summary.json"),
    "processes.json": ('{"processes": [{"name"', "processes.json cannot be read"),
    "quarantine.jsonl": ("no json\n", "step 12"),
    "observations.jsonl": ('{"slots_used": 1}\n', "has no step and time_s"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_and_the_rest_is_shown(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    content, words = DAMAGED[name]
    (folder / name).write_text(content)
    with pytest.raises(SystemExit, match="0"):
        top.main([str(folder), "--once"])
    assert words in capsys.readouterr().out


def test_a_half_written_row_is_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "ti')
    with pytest.raises(SystemExit, match="0"):
        top.main([str(folder), "--once"])
    text = capsys.readouterr().out
    assert "step 12" in text and "no row" not in text
