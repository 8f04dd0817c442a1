import json
from pathlib import Path

import pytest

from learner.measuring.metrics import MetricsLog


def write_rows(folder: Path) -> Path:
    """A measurement, four steps, and half a row, as a killed learner leaves them."""
    metrics = MetricsLog(folder)
    metrics.write(0, 1.5, {"evaluation/full_accuracy": 0.1, "evaluation/samples": 8})
    for step in range(1, 5):
        metrics.write(step, step + 1.5, {"learner/loss_nats": 0.5 / step})
    metrics.close()
    path = folder / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 5, "tim')
    return path


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "run")
    assert (metrics.time_s, metrics.measured_before) == (0.0, None)
    metrics.close()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path)
    metrics.write(1, 0.25, {"a": float("nan"), "b": float("inf"), "c": 2.0})
    metrics.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row == {"step": 1, "time_s": 0.25, "a": None, "b": None, "c": 2.0}


@pytest.mark.parametrize(("step", "time_s"), [(0, 1.5), (2, 3.5), (4, 5.5)])
def test_rows_of_undone_steps_are_removed(tmp_path: Path, step: int, time_s: float) -> None:
    path = write_rows(tmp_path)
    metrics = MetricsLog(tmp_path, step)
    assert steps_of(path) == list(range(step + 1))
    assert metrics.time_s == time_s
    assert metrics.measured_before is not None
    assert metrics.measured_before["evaluation/full_accuracy"] == 0.1
    metrics.write(step + 1, 9.0, {})
    metrics.close()
    assert steps_of(path) == list(range(step + 2))
