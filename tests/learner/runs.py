"""A run of real processes: broker, learner, and rollouts that make responses up."""

import asyncio
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.config import RunConfig
from common.config_cli import dump_toml
from common.files import replace_text
from learner.model.student import load_student
from learner.push.pushed_weights import PushedWeights
from tests.learner import scripted_rollout
from tests.learner.rank_processes import free_port
from tests.learner.scripted_rollout import Script
from tests.waiting import wait_until

LIMIT_S = 120
# Processes are forked from one that has imported torch once and has done nothing else.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.learner.preloaded"])


def run_module(
    module: str, arguments: list[str], output: Path, environment: Mapping[str, str]
) -> None:
    """Run `python -m module arguments`, with its output in a file."""
    os.environ.update(environment)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    torch.set_num_threads(1)
    __import__(module, fromlist=["main"]).main()


def run_rollout(config: RunConfig, rank: int, record: Path, script: Script, output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    asyncio.run(scripted_rollout.serve(config, rank, record, script))


class Run:
    """The processes of one run; all of them are gone when it is closed."""

    def __init__(self, world, tmp_path: Path, **sections: dict[str, object]) -> None:
        self.folder = tmp_path / "run"
        self.record = tmp_path / "record"
        self.record.mkdir()
        self.folder.mkdir(exist_ok=True)
        defaults = {"broker": {"address": "tcp://127.0.0.1:0", "member_timeout_s": 5.0}}
        for name, fields in sections.items():
            defaults[name] = defaults.get(name, {}) | fields
        self.config = world.changed(**defaults)
        self.processes: list[BaseProcess] = []
        self.broker = self.start_module("broker.main")
        self.wait_until((self.folder / "broker.json").exists, self.broker)
        address = json.loads((self.folder / "broker.json").read_text())["address"]
        tree = self.config.model_dump()
        tree["broker"]["address"] = address
        self.config = RunConfig.model_validate(tree)

    def start(self, target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = FORKS.Process(target=target, args=arguments)
        process.start()
        self.processes.append(process)
        return process

    def start_module(
        self, module: str, name: str = "", environment: Mapping[str, str] | None = None
    ) -> BaseProcess:
        """Its output is in NAME.out, by default the module's."""
        # Whole at any time: the process started before this one may be reading it.
        replace_text(self.folder / "config.toml", dump_toml(self.config))
        arguments = ["--config", str(self.folder / "config.toml")]
        output = self.folder / f"{name or module}.out"
        return self.start(run_module, module, arguments, output, environment or {})

    def start_learner(self, name: str = "") -> BaseProcess:
        return self.start_module("learner.main", name)

    def start_ranks(self, number: int) -> list[BaseProcess]:
        """The learner as several processes; their output is in learner-RANK.out."""
        port = str(free_port())
        common = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        numbers = map(str, range(number))
        return [
            self.start_module(
                "learner.main", f"learner-{rank}", {**common, "RANK": rank, "LOCAL_RANK": rank}
            )
            for rank in numbers
        ]

    def start_rollout(self, rank: int = 0, script: Script | None = None) -> BaseProcess:
        output = self.folder / f"rollout-{rank}.out"
        arguments = (self.config, rank, self.record, script or Script(), output)
        return self.start(run_rollout, *arguments)

    def output(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.out")))

    def finish(self, process: BaseProcess) -> int:
        process.join(LIMIT_S)
        if process.exitcode is None:
            pytest.fail(f"still running after {LIMIT_S} s:\n{self.output()}")
        return process.exitcode

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
            process.close()

    def rows(self) -> list[dict]:
        """Whole rows of metrics.jsonl: a learner may be writing one, or have been killed at it."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def steps(self) -> list[dict]:
        """Training rows."""
        return [row for row in self.rows() if "learner/tokens" in row]

    def wait_until(self, condition: Callable[[], bool], process: BaseProcess) -> None:
        """Wait for what `process` makes so before it ends."""

        def is_so() -> bool:
            is_alive = process.is_alive()  # before the last look at the condition
            found = condition()
            assert found or is_alive, self.output()
            return found

        wait_until(is_so, LIMIT_S, self.output)

    def wait_for_step(self, step: int, learner: BaseProcess) -> None:
        """Until `step` has been trained."""
        self.wait_until(lambda: any(row["step"] >= step for row in self.steps()), learner)

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def received(self, member: str, version: int) -> dict[str, torch.Tensor]:
        return load_file(self.record / f"{member}-{version}.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def student_at(run: Run, path: Path) -> dict[str, torch.Tensor]:
    config = run.config.model.model_copy(update={"path": str(path)})
    student = load_student(config, torch.device("cpu"))
    return dict(PushedWeights(student))
