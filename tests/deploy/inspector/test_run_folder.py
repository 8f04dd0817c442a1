"""What state a run is in, by its folder alone."""

import json
import os
import socket
from pathlib import Path

import pytest

from common.journal_file import FOLDER as JOURNAL_FOLDER
from common.journal_file import JOURNAL
from common.kept_reading import FILE as READING
from deploy.inspector import run_folder
from deploy.inspector.run_folder import RunFolder
from deploy.supervision.launcher_api import FILE as LAUNCHER
from tests.trained_rows import write_trained


def write(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def processes(state: str) -> dict:
    return {"processes": [{"name": "learner-0", "state": state, "since": 1.0}]}


def launcher(pid: int, host: str = socket.gethostname()) -> dict:
    return {"pid": pid, "host": host, "token": "t", "address": "http://127.0.0.1:1"}


def test_names_of_files_are_those_of_their_writers() -> None:
    assert (run_folder._READING, run_folder._LAUNCHER) == (READING, LAUNCHER)


GONE = 2**22 + 1  # no process id on Linux


@pytest.mark.parametrize(
    ("files", "step", "state"),
    [
        ({}, 0, "stopped"),
        ({"launcher.json": launcher(os.getpid())}, 0, "starting"),
        ({"launcher.json": launcher(os.getpid())}, 3, "training"),
        ({"launcher.json": launcher(GONE), "processes.json": processes("up")}, 3, "stopped"),
        ({"launcher.json": launcher(GONE, "another machine")}, 3, "training"),
        ({"launcher.json": "{"}, 3, "stopped"),
        ({"processes.json": processes("ended")}, 3, "stopped"),
        ({"processes.json": processes("up")}, 3, "training"),
        ({f"{JOURNAL_FOLDER}/{JOURNAL}": "x"}, 3, "training"),  # processes by hand
        ({"summary.json": {"steps": 3, "interrupted": False}}, 3, "finished"),
        ({"summary.json": {"steps": 3, "interrupted": True}}, 3, "interrupted"),
        ({"summary.json": "{", "launcher.json": launcher(os.getpid())}, 3, "training"),
    ],
)
def test_the_state_of_a_run(tmp_path: Path, files, step: int, state: str) -> None:
    for name, document in files.items():
        write(tmp_path / name, document)
    assert RunFolder(tmp_path).state(step) == state


def test_steps_follow_from_the_data_and_the_limit(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.total_steps() is None
    write(tmp_path / "config.toml", "[learner]\nmax_steps = 40\ngroups_per_step = 32\n"
                                    "[data]\nepochs = 2\n")  # fmt: skip
    assert run.total_steps() == 40
    write(tmp_path / "reading.json", {"num_rows": 323, "bad_rows": [{}] * 3})
    assert run.total_steps() == 20
    write(tmp_path / "reading.json", {"num_rows": 10**6, "bad_rows": []})
    assert run.total_steps() == 40


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.notes(0) == ["there is no config.toml: this may be no run folder"]
    write(tmp_path / "config.toml", "[learner\n")
    write(tmp_path / "summary.json", "half of")
    notes = run.notes(7)
    assert notes[0].startswith("config.toml cannot be read: ") and "older version" in notes[1]
    assert notes[2:] == ["summary.json is damaged"]
    assert run.setting("learner", "max_steps") is None and run.train_file() is None
    write(tmp_path / "config.toml", 'learner = 3\n[data]\ntrain = "a.parquet"\nof_a_later = 1\n')
    (tmp_path / "summary.json").unlink()
    write_trained(tmp_path, [])
    assert run.notes(7) == [] and run.train_file() == Path("a.parquet")
    assert run.setting("learner", "max_steps") is None
    write(tmp_path / "reading.json", {"dataset": "/data/a.parquet"})
    assert run.train_file() == Path("/data/a.parquet")


def test_parts_that_have_something_to_show(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert not any(run.has().values())
    write_trained(tmp_path, [])
    write(tmp_path / "heldout" / "step-000010.jsonl", "")
    write(tmp_path / JOURNAL_FOLDER / JOURNAL, "x")
    write(tmp_path / "groups.jsonl", "")
    write(tmp_path / "plan.json", {})
    assert all(run.has().values())
