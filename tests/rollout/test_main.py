"""rollout.main with the embedded engine against the real broker, all as processes."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from common.config_cli import build, dump_toml
from tests.rollout.learner_player import learner_at
from tests.rollout.support import alive, run_config
from tests.tiny_world import make_dataset
from tests.waiting import until, wait_until

ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES = 8


@dataclass
class Run:
    """A broker and one rollout process on a tiny dataset."""

    folder: Path
    address: str
    broker: subprocess.Popen
    rollout: subprocess.Popen

    @property
    def log(self) -> str:
        return (self.folder / "rollout.stderr").read_text()

    def engine_pid(self) -> int:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.rollout.pid)], capture_output=True, text=True
        )
        return int(found.stdout.split()[0])

    async def ended(self, process: subprocess.Popen, timeout_s: float = 60) -> int:
        return await asyncio.to_thread(process.wait, timeout_s)


@contextlib.contextmanager
def started_run(tmp_path: Path, checkpoint: Path, **rollout) -> Iterator[Run]:
    data = tmp_path / "data"
    train = make_dataset(data, NUM_SAMPLES)
    folder = tmp_path / "run"
    folder.mkdir()
    config = run_config(checkpoint, trajectories_per_sample=3, max_response_tokens=6, **rollout)
    tree = config.model_dump()
    tree["run"]["folder"] = str(folder)
    tree["data"].update(train=str(train), epochs=4)
    tree["broker"].update(
        address="tcp://127.0.0.1:0", max_staleness=1, member_timeout_s=20.0, lease_s=60.0
    )
    tree["learner"].update(groups_per_step=4)
    tree["cluster"].update(drain_s=10.0)
    (folder / "config.toml").write_text(dump_toml(build(tree)))
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(_process("broker", folder))
        address = _address(folder)
        started = _process("rollout", folder, "--broker.address", address)
        rollout_process = stack.enter_context(started)
        yield Run(folder, address, broker, rollout_process)


@contextlib.contextmanager
def _process(package: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", f"{package}.main", "--config", str(folder / "config.toml")]
    with (folder / f"{package}.stderr").open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _address(folder: Path) -> str:
    said = folder / "broker.stderr"
    wait_until((folder / "broker.json").exists, report=said.read_text)
    return json.loads((folder / "broker.json").read_text())["address"]


@pytest.mark.slow
async def test_the_end_of_a_run_ends_the_processes(tmp_path, checkpoint, model):
    with started_run(tmp_path, checkpoint) as run:
        async with learner_at(run.address) as (broker, learner):
            await learner.push(model.state_dict(), 0)
            await learner.take(1)
            engine = run.engine_pid()
            await broker.finish("enough")
            assert await run.ended(run.rollout) == 0, run.log
        assert await run.ended(run.broker) == 0
        assert not alive(engine)
        assert "giving back" not in run.log


@pytest.mark.slow
async def test_sigterm_drains_and_says_goodbye(tmp_path, checkpoint, model, embedded_url):
    with started_run(tmp_path, checkpoint, engine_urls=(embedded_url,)) as run:
        async with learner_at(run.address) as (broker, learner):
            await learner.push(model.state_dict(), 0)
            await learner.take(1)
            run.rollout.send_signal(signal.SIGTERM)
            assert await run.ended(run.rollout) == 0, run.log
            assert (await broker.watch_members(0, 0)).acknowledged == {}


@pytest.mark.slow
async def test_an_engine_that_dies_is_started_again_and_gets_the_weights(
    tmp_path, checkpoint, model
):
    with started_run(tmp_path, checkpoint) as run:
        async with learner_at(run.address) as (broker, learner):
            await learner.push(model.state_dict(), 0)
            await learner.take(1)
            first = run.engine_pid()
            os.kill(first, signal.SIGKILL)
            await broker.ack(1)

            async def has_come_back() -> bool:
                return (await broker.watch_members(0, 0)).acknowledged.get("rollout-0") == -1

            await until(has_come_back)
            assert run.engine_pid() != first
            await learner.push(model.state_dict(), 1)
            await learner.take(2)
            await broker.finish("enough")
            assert await run.ended(run.rollout) == 0, run.log
        assert "the engine died (SIGKILL); its log" in run.log
        assert "starting the engine again in 1 s" in run.log
        assert "Traceback" not in run.log


@pytest.mark.slow
async def test_an_engine_that_dies_too_often_ends_the_process_with_its_log(
    tmp_path, checkpoint, model
):
    with started_run(tmp_path, checkpoint, max_restarts=0) as run:
        async with learner_at(run.address) as (_, learner):
            await learner.push(model.state_dict(), 0)
            await learner.take(1)
            os.kill(run.engine_pid(), signal.SIGKILL)
            assert await run.ended(run.rollout) == 1
        assert "more than 0 times in an hour (rollout.max_restarts)" in run.log
        assert "the engine died (SIGKILL); its log" in run.log
        assert "serving" in run.log.split("the engine died")[1]
        assert "Traceback" not in run.log


@pytest.mark.slow
async def test_a_killed_worker_takes_its_engine_along(tmp_path, checkpoint, model):
    with started_run(tmp_path, checkpoint) as run:
        async with learner_at(run.address) as (_, learner):
            await learner.push(model.state_dict(), 0)
            engine = run.engine_pid()
            run.rollout.kill()
            await until(lambda: not alive(engine))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rollout.engin", "x"), "did you mean rollout.engine"),
        (("--config", "/nonexistent.toml"), "no such file"),
    ],
)
def test_bad_configurations_are_one_line(arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "rollout.main", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def started_on(model: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "rollout.main", "--model.path", str(model),
            "--rollout.engine", "embedded", "--run.folder", str(model / "run"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_an_engine_that_cannot_start_is_one_error_with_its_log(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.language_model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    result = started_on(tmp_path)
    assert result.returncode == 1
    assert "ERROR" in result.stderr
    assert "the engine died (exit code 2)" in result.stderr
    assert "lacks tensors that its model has: model.language_model.norm.weight" in result.stderr


def test_a_folder_that_is_no_model_is_one_line_before_anything_starts(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    result = started_on(tmp_path)
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    assert len(result.stderr.splitlines()) == 1 and "has no weights" in result.stderr
