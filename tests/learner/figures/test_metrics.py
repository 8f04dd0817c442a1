"""Holds learner/figures/tensorboard.py."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from common import full_disk
from learner.figures.metrics import MetricsLog
from learner.figures.tensorboard import TensorboardFile
from tests.small_disk import small_disk

LOSS, GRAD_NORM, RATIO = "learner/loss_nats", "learner/grad_norm", "learner/ratio_max"


def write_rows(folder: Path) -> Path:
    """A measurement, four steps, and half a row, as a killed learner leaves them."""
    metrics = MetricsLog(folder)
    metrics.add(TensorboardFile(folder / "tensorboard", 0))
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
    assert (metrics.time_s, metrics.measured_at(0)) == (0.0, None)
    metrics.close()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path)
    metrics.write(1, 0.25, {GRAD_NORM: float("nan"), RATIO: float("inf"), LOSS: 2.0})
    metrics.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row == {"step": 1, "time_s": 0.25, GRAD_NORM: None, RATIO: None, LOSS: 2.0}


@pytest.mark.parametrize(("step", "time_s"), [(0, 1.5), (2, 3.5), (4, 5.5)])
def test_rows_of_undone_steps_are_removed(tmp_path: Path, step: int, time_s: float) -> None:
    path = write_rows(tmp_path)
    metrics = MetricsLog(tmp_path, step)
    assert steps_of(path) == list(range(step + 1))
    assert metrics.time_s == time_s
    before = metrics.measured_at(0)
    assert before is not None and before["evaluation/full_accuracy"] == 0.1
    assert metrics.measured_at(step + 1) is None
    metrics.write(step + 1, 9.0, {})
    metrics.close()
    assert steps_of(path) == list(range(step + 2))


def test_on_a_full_disk_it_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "_LOOK_S", 0.0)
    with small_disk(tmp_path / "disk", 256) as disk:
        looks = 0

        def is_over() -> bool:
            nonlocal looks
            looks += 1
            if looks == 3:
                disk.free()
            return False

        metrics = MetricsLog(disk.folder / "run", is_over=is_over)
        metrics.add(TensorboardFile(disk.folder / "run" / "tensorboard", 0, is_over))
        figures = {"learner/loss_nats": 0.5, "learner/grad_norm": float("nan")}
        metrics.write(1, 1.0, figures)
        disk.fill()
        metrics.write(
            2, 1.0, figures, mismatch_worst_sample="x" * 8192
        )  # more than is left of its block
        metrics.write(3, 1.0, figures)
        metrics.close()
        assert looks == 3
        assert steps_of(disk.folder / "run" / "metrics.jsonl") == [1, 2, 3]
        assert points(disk.folder / "run" / "tensorboard") == [
            (step, "learner/loss_nats", 0.5) for step in (1, 2, 3)
        ]


def test_tensorboard_reads_its_file_and_forgets_undone_steps(tmp_path: Path) -> None:
    (file,) = (write_rows(tmp_path).parent / "tensorboard").iterdir()
    first, second, *_ = EventFileLoader(str(file)).Load()
    assert first.file_version == "brain.Event:2"
    assert (second.session_log.status, second.step) == (1, 1)
    assert points(tmp_path / "tensorboard")[0] == (
        0,
        "evaluation/full_accuracy",
        pytest.approx(0.1),
    )
    metrics = MetricsLog(tmp_path, step=2)
    metrics.add(TensorboardFile(tmp_path / "tensorboard", 2))
    metrics.write(3, 9.0, {"learner/loss_nats": 7.0})
    metrics.close()
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    curve = [(point.step, point.value) for point in seen.Scalars("learner/loss_nats")]
    assert curve == [(1, 0.5), (2, 0.25), (3, 7.0)]


def group_row(sample_id: str, mismatch: float) -> dict[str, object]:
    return {"sample_id": sample_id, "learner/mismatch_kl_nats": mismatch}


def test_groups_are_logged_with_the_columns_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    log = MetricsLog(tmp_path, columns={"source": {"a": "web"}})
    for step in (1, 2, 3):
        log.write_groups(step, [group_row("a", 0.5), group_row("b", float("nan"))])
    log.close()
    first, second, *_ = map(json.loads, path.read_text().splitlines())
    assert first == {"step": 1, "columns": {"source": "web"}} | group_row("a", 0.5)
    assert second["columns"] == {"source": None} and second["learner/mismatch_kl_nats"] is None
    log = MetricsLog(tmp_path, step=1)  # goes on, with no column any more
    log.write_groups(2, [group_row("a", 0.25)])
    log.close()
    assert steps_of(path) == [1, 1, 2]
    assert json.loads(path.read_text().splitlines()[-1])["columns"] == {}


def test_without_kept_columns_groups_are_not_logged(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write_groups(1, [group_row("a", 0.5)])
    log.close()
    assert not (tmp_path / "groups.jsonl").exists()


def points(folder: Path) -> list[tuple[int, str, float]]:
    """(step, curve, value) of a folder with one event file, as they were written."""
    (file,) = folder.iterdir()
    return [
        (event.step, value.tag, value.tensor.float_val[0])
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
