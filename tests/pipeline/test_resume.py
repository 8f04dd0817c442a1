"""Whatever is killed, and whenever: the run that goes on ends as if nothing had happened.

Broker, rollout server and learner are real processes. SIGKILL ends the learner, the broker, the
rollout server and then all of them in the middle of steps; each is started again with the same
command. Student and teacher are compared bit for bit with a plain loop that was never interrupted.
"""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from common.config import RunConfig
from common.config_cli import dump_toml
from deploy.cluster.process_specs import (
    Location,
    ProcessSpec,
    broker_spec,
    learner_specs,
    rollout_spec,
)
from deploy.supervision.process_actor import ProcessActor, StartRequest
from deploy.supervision.start_requests import config_arguments, start_request
from tests.pipeline.support import (
    BRANCHES,
    GROUPS,
    assert_same_bits,
    make_config,
    plain_loop,
    sample_group,
    shared_prefix_loss,
)
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_world import make_dataset
from tests.waiting import until

STEPS = 12
CHECKPOINT_STEPS = 3
KILLS = (  # when the step has been trained; what comes next is in full swing
    (4, ("learner-0",)),
    (6, ("broker",)),
    (8, ("rollout-0",)),
    (10, ("learner-0", "broker", "rollout-0")),
)
LIMIT_S = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class System:
    """The processes of one run by name; each can be killed and started again."""

    def __init__(self, config: RunConfig) -> None:
        assert config.run.folder is not None
        self.folder = config.run.folder
        self._config = config
        self._requests: dict[str, StartRequest] = {}
        self._processes: dict[str, ProcessActor] = {}

    async def start_all(self) -> None:
        here, arguments = Location("here", "127.0.0.1"), config_arguments(self.folder)
        self._request(broker_spec(self._config, arguments, here))
        await self.start("broker")
        path = self.folder / "broker.json"
        await self.until(path.exists)
        address = json.loads(path.read_text())["address"]
        self._request(rollout_spec(self._config, arguments, 0, here, address))
        self._request(learner_specs(self._config, arguments, [here], address, servers=1)[0])
        for name in ("rollout-0", "learner-0"):
            await self.start(name)

    def _request(self, spec: ProcessSpec) -> None:
        self._requests[spec.name] = start_request(spec, self._config, self.folder)

    async def start(self, name: str) -> None:
        self._processes[name] = ProcessActor(host="127.0.0.1")
        await self._processes[name].start(self._requests[name])

    async def kill(self, name: str) -> None:
        """SIGKILL, to the engine of a rollout process as well."""
        await self._processes[name].signal(signal.SIGKILL)
        assert await self._processes[name].wait() == -signal.SIGKILL, self.logs()

    async def ended(self, name: str) -> None:
        async with asyncio.timeout(LIMIT_S):
            assert await self._processes[name].wait() == 0, self.logs()

    async def close(self) -> None:
        for process in self._processes.values():
            await process.signal(signal.SIGKILL)

    async def until(self, condition: Callable[[], bool]) -> None:
        try:
            await until(condition, LIMIT_S)
        except AssertionError:
            pytest.fail(self.logs())

    def trained(self) -> list[int]:
        """Steps in metrics.jsonl, in its order; a last line that is being written is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [row["step"] for row in rows if "learner/lr" in row]

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("checkpoints/step-*"))

    def logs(self) -> str:
        logs = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"==== {log.name}\n{log.read_text()[-6000:]}" for log in logs)


def make_run(folder: Path, checkpoint: Path, dataset: Path) -> RunConfig:
    config = make_config(folder / "run", checkpoint, dataset, servers=1)
    tree: dict[str, Any] = config.model_dump()
    tree["broker"]["member_timeout_s"] = 5.0
    tree["weights"]["timeout_s"] = 8.0
    tree["checkpoint"]["every_steps"] = CHECKPOINT_STEPS
    tree["data"]["heldout"] = dataset
    tree["evaluation"] |= {"samples": 4, "shown": 1, "max_response_tokens": 2}
    config = RunConfig.model_validate(tree)
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text(dump_toml(config))
    return config


async def run_and_kill(system: System) -> int:
    """Run to the end through all kills. Returns how many of them undid steps."""
    num_undone = 0
    await system.start_all()
    for step, names in KILLS:
        await system.until(lambda step=step: max(system.trained(), default=0) >= step)
        for name in names:
            await system.kill(name)
        newest = system.trained()[-1]
        num_undone += "learner-0" in names and f"step-{newest:06d}" not in system.checkpoints()
        for name in names:
            await system.start(name)
    for name in ("learner-0", "rollout-0", "broker"):
        await system.ended(name)
    return num_undone


@pytest.mark.minutes(1.5)
@pytest.mark.usefixtures("one_thread")
def test_a_run_whose_processes_are_killed_ends_as_if_they_were_not(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "model")
    dataset = make_dataset(tmp_path / "data", STEPS * GROUPS)
    config = make_run(tmp_path, checkpoint, dataset)
    system = System(config)

    async def run() -> int:
        try:
            return await run_and_kill(system)
        finally:
            await system.close()

    num_undone = asyncio.run(run())
    last = system.folder / "checkpoints" / f"step-{STEPS:06d}"
    student, teacher = plain_loop(config, sample_group, shared_prefix_loss)
    assert_same_bits(load_file(last / "model.safetensors"), student)
    assert_same_bits(load_file(last / "teacher/weights.safetensors"), teacher)

    summary = json.loads((system.folder / "summary.json").read_text())
    assert summary["steps"] == STEPS and not summary["interrupted"]
    assert summary["trajectories_trained"] == STEPS * GROUPS * BRANCHES
    assert summary["max_staleness_seen"] == 0
    assert summary["full_accuracy_before"] is not None
    assert system.trained() == list(range(1, STEPS + 1))
    (scene,) = json.loads((system.folder / "scenes.json").read_text())["scenes"]
    assert (scene["before"]["version"], scene["after"]["version"]) == (0, STEPS)
    assert num_undone > 0, "no kill came between two checkpoints"
