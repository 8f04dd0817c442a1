"""What a learner keeps of the tokens that it trains."""

import errno
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from common.trained import FOLDER, TrainedStream, trained_files
from learner.figures.trained import StepRows, TrainedLog, keep_tokenizer
from learner.trainer import Trainer
from tests.trained_rows import token_figures, trained_group

LARGE = 2.0**30


def rows(step: int) -> StepRows:
    groups = [trained_group(f"0/{step}", f"s{step}", [3, 5], step - 1, step)]
    return StepRows(groups, token_figures(groups, step))


def kept_steps(run_folder: Path) -> list[tuple[int, int, list[int]]]:
    """(life, step that it went on from, its steps) of each file."""
    found = []
    for file in trained_files(run_folder / FOLDER):
        stream = TrainedStream(file.path)
        steps = [batch["step"][0].as_py() for _, _, batch in stream.batches()]
        found.append((file.life, stream.from_step, steps))
    return found


def written(run_folder: Path, from_step: int, steps: list[int], max_bytes: float = LARGE) -> None:
    log = TrainedLog(run_folder, from_step, 0, max_bytes)
    for step in steps:
        log.write(step, rows(step))
    log.close()


def test_each_life_has_a_file_that_says_where_it_went_on(tmp_path: Path) -> None:
    written(tmp_path, 0, [1, 2, 3])
    written(tmp_path, 2, [3, 4])
    assert kept_steps(tmp_path) == [(1, 0, [1, 2, 3]), (2, 2, [3, 4])]


def test_files_end_at_their_limit_over_all_lives(tmp_path: Path, caplog) -> None:
    written(tmp_path, 0, [1, 2, 3])
    (file,) = trained_files(tmp_path / FOLDER)
    size = file.path.stat().st_size
    stream = TrainedStream(file.path)
    step_bytes = (size - stream.start) / 3
    with caplog.at_level(logging.WARNING):
        written(tmp_path, 3, [4, 5, 6], max_bytes=size + 1.5 * step_bytes)
    assert kept_steps(tmp_path)[1:] == [(2, 3, [4])]
    told = [record.message for record in caplog.records]
    assert "run.trained_gib" in told[0] and "2 steps are left out" in told[1] and len(told) == 2


def test_ranks_count_lives_alike_though_one_wrote_nothing_in_its_life(tmp_path: Path) -> None:
    for from_step, ranks in ((0, (0, 1)), (1, (0,)), (2, (0, 1))):
        logs = {rank: TrainedLog(tmp_path, from_step, rank, LARGE) for rank in (0, 1)}
        for rank in ranks:  # in the second life the other one was killed before
            logs[rank].write(from_step + 1, rows(from_step + 1))
        for log in logs.values():
            log.close()
    files = trained_files(tmp_path / FOLDER)
    assert [(file.life, file.rank) for file in files] == [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]


def test_a_folder_that_cannot_be_written_costs_a_run_nothing(tmp_path: Path, caplog) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with caplog.at_level(logging.WARNING):
        written(tmp_path, 0, [1, 2])
        (tmp_path / "tokenizer").write_text("in the way")
        keep_tokenizer(tmp_path, None)
    assert "2 steps are left out" in caplog.text and "tokenizer.json is not written" in caplog.text


def test_a_folder_that_cannot_be_looked_at_costs_this_rank_a_life(
    tmp_path: Path, caplog, monkeypatch
) -> None:
    def refused(folder: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    written(tmp_path, 0, [1, 2])
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        other = TrainedLog(tmp_path, 1, 1, LARGE)
        patched.setattr("learner.figures.trained.trained_files", refused)
        own = TrainedLog(tmp_path, 1, 0, LARGE)
        patched.undo()
        for step in (2, 3):
            own.write(step, rows(step))
            other.write(step, rows(step))
        own.close()
        other.close()
    first, last = caplog.messages
    assert "Stale file handle" in first and "2 steps are left out" in last
    written(tmp_path, 3, [4])
    assert kept_steps(tmp_path) == [(1, 0, [1, 2]), (2, 1, [2, 3]), (3, 3, [4])]


def test_a_disk_that_was_full_takes_no_room(tmp_path: Path, monkeypatch) -> None:
    written(tmp_path, 0, [1, 2, 3])
    size = sum(file.path.stat().st_size for file in trained_files(tmp_path / FOLDER))

    def refused(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = TrainedLog(tmp_path, 3, 0, 2.5 * size, ThreadPoolExecutor(1))
    with monkeypatch.context() as patched:
        patched.setattr("learner.figures.trained.replacing", refused)
        for step in (4, 5, 6):
            log.write(step, rows(step))
        for future in log._pending:
            future.result()
    log.write(7, rows(7))
    log.close()
    assert kept_steps(tmp_path)[1:] == [(2, 3, [7])]


def test_steps_are_left_out_while_the_disk_is_behind(tmp_path: Path, caplog) -> None:
    disk_is_there = threading.Event()
    writer = ThreadPoolExecutor(1)
    writer.submit(disk_is_there.wait)
    log = TrainedLog(tmp_path, 0, 0, LARGE, writer)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 8):
            log.write(step, rows(step))
        disk_is_there.set()
        log.close()
    assert kept_steps(tmp_path) == [(1, 0, [1, 2, 3, 4])]
    assert "3 steps are left out" in caplog.text


def test_what_is_kept_is_what_was_trained(world) -> None:
    made = world.trainer()
    trainer = Trainer(world.config, made.model, made.teacher, 10, keeps_tokens=True)
    preparation = world.preparation(trainer)
    groups = [world.group(number, lengths) for number, lengths in enumerate([(3, 1), (2, 5), (4,)])]
    result = trainer.step(preparation.prepare(1, groups))
    assert result.rows is not None
    _, teacher_T, divergence_T, entropy_T = result.rows.figures_FT
    student_T = result.rows.figures_FT[0]
    metrics = result.metrics
    assert divergence_T.mean() == pytest.approx(metrics["learner/divergence_nats"], rel=1e-5)
    assert entropy_T.mean() == pytest.approx(metrics["learner/entropy_nats"], rel=1e-5)
    gain = (teacher_T - student_T).mean()
    assert gain == pytest.approx(metrics["learner/teacher_gain_nats"], rel=1e-4)
    by_id = {group.group_id: group for group in groups}
    kept = [t for group in result.rows.groups for t in group.trajectories]
    trained = [t for group in result.rows.groups for t in by_id[group.group_id].trajectories]
    assert kept == trained and len(kept) == 5
    rollout_T = np.concatenate([t.rollout_logprobs for t in kept])
    ratio = np.exp(student_T - rollout_T).max()
    assert ratio == pytest.approx(metrics["learner/ratio_max"], rel=1e-4)
    assert world.trainer().step(preparation.prepare(1, groups)).rows is None


def test_kept_tokens_are_read_without_the_checkpoint(tmp_path: Path, renderer) -> None:
    keep_tokenizer(tmp_path, renderer.tokenizer)
    ids = renderer.tokenizer("What is on the sign?")["input_ids"]
    kept = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert kept.decode(ids, skip_special_tokens=False) == renderer.tokenizer.decode(ids)
