"""A run's groups, scored again by the inspector's own process, are what the run recorded."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.trained import FOLDER, TrainedStream, trained_files
from deploy.inspector.scores import TokenScores
from tests.pipeline.support import STEPS, make_config, run_processes
from tests.waiting import until


def recorded(run: Path) -> dict[int, dict[str, Any]]:
    """The first group of each step, as the inspector's API has it, and its figures."""
    (file,) = trained_files(run / FOLDER)
    found = {}
    for _, _, batch in TrainedStream(file.path).batches():
        rows = batch.to_pylist()
        own = [row for row in rows if row["group_id"] == rows[0]["group_id"]]
        found[rows[0]["step"]] = {
            "step": rows[0]["step"],
            "group_id": rows[0]["group_id"],
            "sample": {"sample_id": rows[0]["sample_id"]},
            "trajectories": [
                {**row, "tokens": [{"id": number} for number in row["token_ids"]]} for row in own
            ],
        }
    return found


@pytest.mark.slow
async def test_scores_at_the_weights_of_a_step_are_those_that_it_recorded(
    tmp_path: Path, checkpoint: Path, dataset: Path
) -> None:
    run = tmp_path / "run"
    config = make_config(run, checkpoint, dataset, 1)
    kept = {"every_steps": 1, "keep": STEPS}
    await asyncio.to_thread(run_processes, config.changed(checkpoint=kept))
    groups = recorded(run)
    assert sorted(groups) == list(range(1, STEPS + 1))
    async with TokenScores() as scores:
        for step, group in groups.items():
            for trajectory in group["trajectories"]:
                found: dict[str, Any] = {}

                async def is_there(group=group, trajectory=trajectory, found=found) -> bool:
                    index = trajectory["index"]
                    found.update(await scores.scores(run, run / "scores", group, index))
                    return found["state"] != "working"

                await until(is_there, 120)
                assert found["state"] == "done", found
                assert found["checkpoint_step"] == step - 1 and found["is_exact"]
                for name in ("student_logprob", "teacher_logprob", "divergence", "entropy"):
                    np.testing.assert_allclose(found[name], trajectory[name], atol=1e-4, rtol=1e-4)
                assert len(found["positions"]) == len(trajectory["tokens"])
    assert len(list((run / "scores").iterdir())) == STEPS  # a group is computed once
