"""A learner of two processes that share one model, in a whole run of real processes."""

import json
from pathlib import Path

import pytest
import torch

from common.config_cli import build
from tests.pipeline.test_synchronous import (  # noqa: F401  (fixtures)
    STEPS,
    assert_close,
    checkpoint,
    dataset,
    make_config,
    one_thread,
    run_processes,
)

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


def test_two_ranks_make_the_run_of_one(
    tmp_path: Path,
    checkpoint: Path,  # noqa: F811
    dataset: Path,  # noqa: F811
    one_thread: None,  # noqa: F811
) -> None:
    results = []
    for ranks in (1, 2):
        folder = tmp_path / f"ranks-{ranks}"
        tree = make_config(folder, checkpoint, dataset, 1).model_dump()
        tree["cluster"]["learner_ranks"] = ranks
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
