"""Figures beside metrics.jsonl, by the real W&B and MLflow, without a server.

Holds learner/figures/mlflow_run.py, learner/figures/tracker_program.py,
learner/figures/wandb_run.py.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from common.config import RunConfig
from common.config_cli import load
from common.errors import ConfigError
from learner.figures.metrics import MetricsLog
from learner.figures.tensorboard import TensorboardFile
from learner.figures.tracker_program import follow
from learner.figures.trackers import TrackerProcess, about, check_trackers, open_trackers
from tests.learner.figures import wandb_file
from tests.waiting import LIMIT_S, wait_until

LOSS, ACCURACY = "learner/loss_nats", "evaluation/full_accuracy"
MLFLOW = [sys.executable, "-m", "learner.figures.tracker_program", "mlflow"]
TOLD = json.dumps({"project": "p", "group": "g", "name": "n", "config": {}})


def config_of(folder: Path, trackers: str) -> RunConfig:
    return load(["--run.folder", str(folder), "--run.name", "tags", "--run.trackers", trackers])


def write_lives(folder: Path, trackers: str) -> None:
    """A run of four steps that goes on from its second, and that is measured late."""
    for step, factor in ((0, 1.0), (2, 10.0)):
        config = config_of(folder, trackers)
        log = MetricsLog(folder, step)
        for tracker in open_trackers(config, step):
            log.add(tracker)
        for number in range(step + 1, 5 - step // 2):
            figures = {LOSS: factor * number, "learner/grad_norm": float("nan")}
            log.write(number, float(number), figures, mismatch_worst_sample="a")
        if step:
            log.write(0, 9.0, {ACCURACY: 0.5})
        log.close()


KEPT = [(1, 1.0), (2, 2.0), (3, 30.0)]  # steps and losses in the end


def test_wandb_has_a_run_for_each_life_and_the_last_is_whole(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "mine"
    write_lives(folder, "wandb")
    assert caplog.messages == []
    first, second = sorted(
        folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    )
    assert [row["step"] for row in wandb_file.rows(first)] == [1, 2, 3, 4]
    rows = wandb_file.rows(second)
    assert [(row["step"], row[LOSS]) for row in rows if LOSS in row] == KEPT
    assert rows[-1] == {"step": 0, "time_s": 9.0, ACCURACY: 0.5}
    assert rows[0] == {"step": 1, "time_s": 1.0, LOSS: 1.0}  # finite numbers alone
    assert wandb_file.step_metrics(second) == {"*": "step"}
    run = wandb_file.run_of(second)
    assert (run.project, run.run_group) == ("tags", "mine")
    assert run.display_name == "mine (from step 2)"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optimizer.lr"] == load([]).optimizer.lr


def test_mlflow_has_a_run_for_each_life_and_the_last_is_whole(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    folder = tmp_path / "mine"
    write_lives(folder, "mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert caplog.messages == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from mlflow.tracking import MlflowClient
    client = MlflowClient((folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("tags")
    second, first = client.search_runs([experiment.experiment_id])
    assert (first.info.run_name, second.info.run_name) == ("mine", "mine (from step 2)")
    assert {first.info.status, second.info.status} == {"FINISHED"}
    history = client.get_metric_history(second.info.run_id, LOSS)
    assert sorted((point.step, point.value) for point in history) == KEPT
    (measured,) = client.get_metric_history(second.info.run_id, ACCURACY)
    assert (measured.step, measured.value) == (0, 0.5)
    assert second.data.params["optimizer.lr"] == str(load([]).optimizer.lr)


class Recorder:
    """A tracker that adds a piece to the file at each row, until there is none left."""

    def __init__(self, path: Path, bell: int, pieces: list[str]) -> None:
        self.rows: list[tuple[int, Mapping[str, float | None]]] = []
        self._path, self._bell, self._pieces = path, bell, pieces

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        self.rows.append((step, figures))
        if not self._pieces:
            os.close(self._bell)
            return
        with self._path.open("a") as file:
            file.write(self._pieces.pop(0))
        os.write(self._bell, b".")

    def close(self) -> None: ...


def row(step: int) -> str:
    figures = {LOSS: 0.5, "learner/grad_norm": None, "learner/mismatch_worst_sample": "a"}
    return json.dumps({"step": step, "time_s": 1.0, "slots_used": 2, **figures}) + "\n"


def test_rows_are_followed_until_there_are_no_more(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(row(1) + row(2)[:5])
    told, bell = os.pipe()
    recorder = Recorder(path, bell, [row(2)[5:] + row(3)[:9], row(3)[9:]])
    follow(path, recorder, told)
    os.close(told)
    expected = {"time_s": 1.0, "broker/slots_used": 2, LOSS: 0.5}
    assert recorder.rows == [(step, expected) for step in (1, 2, 3)]


def test_a_tracker_that_ends_is_told_of_once_and_the_run_goes_on(tmp_path, caplog) -> None:
    tracker = python("raise SystemExit(3)", tmp_path)
    tracker._watch.join(LIMIT_S)
    log = MetricsLog(tmp_path)
    log.add(tracker)
    for step in (1, 2, 3):
        log.write(step, 1.0, {LOSS: 0.5})
    log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    where = tmp_path / "logs" / "wandb.log"
    said = f"wandb has not all figures: it ended with code 3, see {where}. The run goes on"
    assert said in record.message


def python(code: str, folder: Path, close_s: float = LIMIT_S) -> TrackerProcess:
    command = [sys.executable, "-c", code]
    return TrackerProcess("wandb", command, folder / "logs" / "wandb.log", close_s)


def test_helpers_of_an_ended_tracker_end_and_no_later_group_of_its_id(
    tmp_path, monkeypatch
) -> None:
    kill, is_own = os.killpg, []

    def killpg(group: int, number: int) -> None:
        try:
            os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            is_own.append(True)
        except ChildProcessError:  # by now it may be anyone's
            is_own.append(False)
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    held = tmp_path / "held"
    os.mkfifo(held)
    helper = (
        f"import subprocess; subprocess.Popen(['sleep', '600'], stdout=open({str(held)!r}, 'w'))"
    )
    tracker = python(helper, tmp_path)
    assert held.read_bytes() == b""  # ends with the last of its writers
    tracker.write(1, {})
    tracker.close()
    tracker.close()
    assert is_own == [True]


def test_trackers_are_closed_at_the_same_time(tmp_path, caplog) -> None:
    """The first ends only when the second is being closed."""
    meeting = tmp_path / "meeting"
    os.mkfifo(meeting)
    log = MetricsLog(tmp_path)
    for mode in "rw":
        log.add(python(f"import sys; sys.stdin.read(); open({str(meeting)!r}, {mode!r})", tmp_path))
    log.close()
    assert caplog.messages == []


def test_trackers_are_closed_when_the_file_cannot_be(tmp_path: Path) -> None:
    log, tracker = MetricsLog(tmp_path), python("input()", tmp_path)
    log.add(tracker)
    os.close(log._file._file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.close()
    assert tracker._process.returncode is not None


LEARNER = """
import sys, time
from pathlib import Path
from learner.figures.trackers import TrackerProcess

log, *command = sys.argv[1:]
tracker = TrackerProcess("mlflow", command, Path(log))
print(tracker._process.pid, flush=True)
time.sleep(600)
"""


def killed_learner(folder: Path, command: list[str], until_begun: Callable[[], object]) -> int:
    """Kill a learner with a tracker and read the rest of its output; the tracker's pid."""
    program = [sys.executable, "-c", LEARNER, str(folder / "mlflow.log"), *command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as learner:
        assert learner.stdout is not None
        tracker = int(learner.stdout.readline())
        until_begun()
        learner.kill()
        assert learner.communicate(timeout=LIMIT_S) == (b"", None)
    return tracker


def test_the_output_of_a_killed_learner_ends_with_it(tmp_path: Path) -> None:
    tracker = killed_learner(tmp_path, ["sleep", "600"], lambda: None)
    os.killpg(tracker, signal.SIGKILL)  # it is there


def test_a_tracker_that_hangs_without_a_learner_ends(tmp_path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(LIMIT_S)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        (tmp_path / "metrics.jsonl").touch()
        asked: list[socket.socket] = []
        command = [*MLFLOW, str(tmp_path), TOLD, "0.1"]
        killed_learner(tmp_path, command, lambda: asked.append(silent.accept()[0]))
        with asked[0] as connection:
            connection.settimeout(LIMIT_S)
            while connection.recv(4096):
                pass  # its question, and in the end its own end
    assert "given up" in (tmp_path / "mlflow.log").read_text()


def test_the_last_rows_come_after_a_sigterm_to_all(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log = MetricsLog(tmp_path)
    (tracker,) = open_trackers(config_of(tmp_path, "mlflow"), 0)
    assert isinstance(tracker, TrackerProcess)
    log.add(tracker)
    wait_until((tmp_path / "mlflow").exists)
    os.kill(tracker._process.pid, signal.SIGTERM)
    log.write(1, 1.0, {LOSS: 0.5})
    log.close()
    assert caplog.messages == []
    (points,) = tmp_path.glob(f"mlflow/*/*/metrics/{LOSS}")
    assert points.read_text().split()[1:] == ["0.5", "1"]


def test_a_tracker_that_reads_nothing_holds_no_step_up_and_is_ended(tmp_path, caplog) -> None:
    tracker = python("import time; time.sleep(600)", tmp_path, close_s=0.1)
    for step in range(100_000):  # more than a pipe takes
        tracker.write(step, {})
    tracker.close()
    assert tracker._process.returncode is not None
    assert [record.message.split(".")[0] for record in caplog.records] == [
        "wandb has not all figures: it did not end within 0"
    ]


def test_a_tracker_that_does_not_work_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow").write_text("in the way")
    log = tmp_path / "logs" / "mlflow.log"
    TrackerProcess("mlflow", [*MLFLOW, str(tmp_path), TOLD, "60"], log).close()
    said = log.read_text()
    assert " ERROR   mlflow " in said and len(said.splitlines()) == 1


def test_tensorboard_is_the_default(tmp_path: Path) -> None:
    config = load(["--run.folder", str(tmp_path)])
    (tracker,) = open_trackers(config, 0)
    assert isinstance(tracker, TensorboardFile)
    tracker.close()


def test_a_tracker_without_its_package_is_refused_at_the_start() -> None:
    check_trackers(["tensorboard", "wandb", "mlflow"])
    with pytest.raises(ConfigError, match=r"run\.trackers = wandb,other: other is not installed\. "
                       r'Fix: pip install -e "\.\[other\]"'):  # fmt: skip
        check_trackers(["wandb", "other"])


def test_a_tracker_is_told_what_is_learnt_and_not_where(tmp_path: Path) -> None:
    told = about(config_of(tmp_path / "mine", "wandb"), 0)
    assert (told["project"], told["group"], told["name"]) == ("tags", "mine", "mine")
    keys = told["config"].keys()
    assert {"objective.importance_clip", "run.seed", "learner.groups_per_step"} <= keys
    assert not [key for key in keys if key.startswith(("broker.", "weights.", "rollout_pool."))]
