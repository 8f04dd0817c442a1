"""A learner of two processes that share one model, in a whole run of real processes."""

import asyncio
import json
from pathlib import Path

import pytest
import torch

from common.config_cli import build, dump_toml
from deploy.supervision.supervisor import Supervisor
from tests.deploy.supervision.support import place_here
from tests.pipeline.support import STEPS, assert_close, make_config, run_processes
from tests.waiting import until

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


def test_a_signal_ends_both_ranks_at_the_same_step(
    tmp_path: Path,
    checkpoint: Path,
    dataset: Path,
) -> None:
    """While weights are pushed and samples generated; the drain ends with a checkpoint."""
    folder = tmp_path / "run"
    tree = make_config(folder, checkpoint, dataset, 1).model_dump()
    tree["learner"]["ranks"] = 2
    tree["cluster"]["drain_s"] = 60.0
    tree["data"]["epochs"] = 50
    config = build(tree)
    folder.mkdir()
    (folder / "config.toml").write_text(dump_toml(config))

    async def run() -> bool:
        stop = asyncio.Event()

        async def stop_after_a_step() -> None:
            metrics = folder / "metrics.jsonl"
            await until(
                lambda: metrics.exists() and "learner/loss_nats" in metrics.read_text(), 300.0
            )
            stop.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stop_after_a_step())
            return await Supervisor(config, folder, place_here).run(stop)

    assert asyncio.run(run()) is False
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] is True and summary["steps"] >= 1
    assert (folder / "checkpoints" / f"step-{summary['steps']:06d}").is_dir()
    for name in ("learner-0", "learner-1"):
        assert "Traceback" not in (folder / "logs" / f"{name}.log").read_text()


def test_two_ranks_make_the_run_of_one(
    tmp_path: Path,
    checkpoint: Path,
    dataset: Path,
    one_thread: None,
) -> None:
    results = []
    for ranks in (1, 2):
        folder = tmp_path / f"ranks-{ranks}"
        tree = make_config(folder, checkpoint, dataset, 1).model_dump()
        tree["learner"] |= {"ranks": ranks, "render_processes": ranks - 1}
        tree["data"]["heldout"] = dataset
        tree["evaluation"] |= {"every_steps": 1, "interim_samples": 3, "max_response_tokens": 4}
        tree["checkpoint"] |= {"every_steps": 1, "keep_best": 1}
        results.append(run_processes(build(tree)))
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["steps"] == STEPS and summary["interrupted"] is False
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        measured = [row for row in rows if "evaluation/full_accuracy" in row]
        assert [row["step"] for row in measured] == list(range(STEPS + 1))
    for alone, together in zip(*results, strict=True):
        assert_close(together, alone)
    assert torch.get_num_threads() == 1
