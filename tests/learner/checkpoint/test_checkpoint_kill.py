"""SIGKILL at every kind of moment while checkpoints are written: a whole one is always there.

A child trains and saves; it kills itself at a chosen system call, or is killed after a random time.
What it leaves must load, be the state of its version bit for bit, and be one that the broker lets a
learner go back to.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from common import files
from common.config import RunConfig
from common.rendering import Renderer
from learner.checkpoint import (
    Checkpointer,
    checkpointer,
    find_checkpoint,
    list_checkpoints,
    restore,
    tensor_files,
)
from learner.checkpoint import folder as checkpoint_folder
from tests.learner.rank_processes import FORKS
from tests.learner.small_training import SmallTraining, small_config

SAVES = 3  # with the third, the first is removed
NUM_POINTS = 24
NUM_RANDOM = 6
LIMIT_S = 60.0


class Moments:
    """Counts what a child does to the disk, and kills it at the chosen number."""

    def __init__(self, fatal: int) -> None:
        self.names: list[str] = []
        self._fatal = fatal

    def reach(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self.reach(name)
            return function(*arguments, **options)

        return wrapper

    def watch(self) -> None:
        contents = tensor_files._contents

        def halves(*arguments: Any) -> Iterator[tuple[int, bytes | memoryview]]:
            for offset, content in contents(*arguments):
                middle = len(content) // 2
                yield offset, content[:middle]
                self.reach("write")
                yield offset + middle, content[middle:]

        tensor_files._contents = halves
        for module in (checkpoint_folder, checkpointer, files):
            module.os = _Os(self)  # type: ignore[attr-defined]
        shutil.rmtree = self.before("rmtree", shutil.rmtree)  # type: ignore[assignment]
        os.unlink = self.before("unlink", os.unlink)  # one file of an rmtree


class _Os:
    """The module os, whose changes to the disk are moments."""

    def __init__(self, moments: Moments) -> None:
        self.replace = moments.before("replace", os.replace)
        self.fsync = moments.before("fsync", os.fsync)
        self.open, self.close, self.O_RDONLY = os.open, os.close, os.O_RDONLY


def train_and_die(
    training: SmallTraining, renderer: Renderer, folder: Path, fatal: int, is_hasty: bool
) -> None:
    """Save SAVES versions, or many. `fatal`: the moment to die at; 0: live and list them."""
    moments = Moments(fatal)
    moments.watch()

    def commit(step: int, oldest: int) -> None:
        with (folder / "told").open("a") as file:
            file.write(f"{step} {oldest}\n")
        moments.reach("commit")

    config = run_config(folder, training.path)
    with Checkpointer(folder / "checkpoints", training, renderer, config, commit) as saver:
        for _ in range(1000 if is_hasty else SAVES):
            training.step()
            saver.save()
            if not is_hasty:
                saver.wait(LIMIT_S)
    (folder / "moments").write_text(json.dumps(moments.names))


def parent(jobs: Connection, model: Path) -> None:
    """Loads once, then forks one child a job and answers with its exit code."""
    torch.set_num_threads(1)  # no threads, so that it may fork
    training = SmallTraining(run_config(model, model))
    renderer = Renderer(str(model))
    while (job := jobs.recv()) is not None:
        folder, fatal, kill_after_s = job
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            train_and_die(training, renderer, folder, fatal, kill_after_s is not None)
            os._exit(0)
        deadline = time.monotonic() + LIMIT_S
        if kill_after_s is not None:
            while not (folder / "told").exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(kill_after_s)
            os.kill(pid, signal.SIGKILL)
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            time.sleep(0.005)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        jobs.send(os.waitstatus_to_exitcode(ended[1]))


@pytest.fixture
def jobs(tiny_checkpoint: Path) -> Iterator[Connection]:
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=parent, args=(there, tiny_checkpoint))
    process.start()
    yield here
    here.send(None)
    process.join(LIMIT_S)
    process.kill()
    assert process.exitcode == 0


def run_child(
    jobs: Connection, folder: Path, fatal: int = 0, kill_after_s: float | None = None
) -> int:
    """Its exit code."""
    jobs.send((folder, fatal, kill_after_s))
    assert jobs.poll(2 * LIMIT_S)
    exit_code: int = jobs.recv()
    return exit_code


def run_config(folder: Path, model: Path) -> RunConfig:
    return small_config(folder, model, checkpoint={"keep": 2})


class Judge:
    """Compares what a child left with training that nothing happened to."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._renderer = Renderer(str(model))
        self._straight = SmallTraining(run_config(model, model))
        self._expected = {0: self._straight.state()}

    def check(self, run: Path) -> int:
        """The version that a learner goes on from; 0: from the start."""
        config, folder = run_config(run, self._model), run / "checkpoints"
        lines = (run / "told").read_text().splitlines() if (run / "told").exists() else []
        told = [tuple(map(int, line.split())) for line in lines]
        committed, oldest = told[-1] if told else (0, 0)
        found = find_checkpoint(folder, config)
        version = found.version if found else 0
        assert oldest <= version and committed - 1 <= version <= committed, (version, told)
        assert len(list_checkpoints(folder)) <= 3
        training = SmallTraining(config, version=version)
        if found is not None:
            restore(found, training)
        assert training.state() == self._at(version)
        self._go_on(config, training, folder)
        return version

    def _at(self, version: int) -> dict[str, str]:
        while version not in self._expected:
            self._straight.step()
            self._expected[self._straight.version] = self._straight.state()
        return self._expected[version]

    def _go_on(self, config: RunConfig, training: SmallTraining, folder: Path) -> None:
        """The next checkpoint is written over whatever was left."""
        with Checkpointer(folder, training, self._renderer, config, lambda *_: None) as saver:
            training.step()
            saver.save()
        names = {path.name for path in folder.iterdir()}
        assert f"step-{training.version:06d}" in names and len(names) <= 2, names


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_loads(
    jobs: Connection, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    judge = Judge(tiny_checkpoint)
    assert run_child(jobs, tmp_path / "straight") == 0
    assert judge.check(tmp_path / "straight") == SAVES
    names = json.loads((tmp_path / "straight" / "moments").read_text())
    found = set()
    for fatal in chosen_moments(names):
        folder = tmp_path / str(fatal)
        assert run_child(jobs, folder, fatal) == -signal.SIGKILL, names[fatal - 1]
        found.add(judge.check(folder))
    assert found >= {0, 1, SAVES}, "kills came at too few different times"


def chosen_moments(names: list[str]) -> list[int]:
    """Numbers from 1: of every kind the first, the last and some between."""
    chosen: set[int] = set()
    kinds = sorted(set(names))
    assert kinds == ["commit", "fsync", "replace", "rmtree", "unlink", "write"]
    for kind in kinds:
        numbers = [number for number, name in enumerate(names, start=1) if name == kind]
        share = NUM_POINTS // len(kinds)
        chosen |= {numbers[i * (len(numbers) - 1) // (share - 1)] for i in range(share)}
    return sorted(chosen)


def test_a_kill_at_a_random_time_while_training_goes_on(
    jobs: Connection, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    judge, draw = Judge(tiny_checkpoint), random.Random(0)
    found = []
    for number in range(NUM_RANDOM):
        folder = tmp_path / str(number)
        exit_code = run_child(jobs, folder, kill_after_s=draw.uniform(0, 0.3))
        assert exit_code == -signal.SIGKILL
        found.append(judge.check(folder))
    assert max(found) > 1, found
