"""The point of it all, on one seed: `tests/bench/effect.py` has more seeds and the controls."""

import json
from pathlib import Path

import pytest

from tests.deploy.quickstart.support import Launched


@pytest.mark.minutes(3.5)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_learns_without_labels(tmp_path: Path) -> None:
    run = Launched(tmp_path / "run")
    assert run.process.wait(850) == 0, run.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["crop_accuracy_before"] >= 0.9
    assert 0.4 <= summary["full_accuracy_before"] <= 0.6
    assert summary["gap_closed"] >= 1 / 3
    assert summary["crop_accuracy_after"] >= summary["crop_accuracy_before"] - 0.02
    assert summary["max_staleness_seen"] <= 1
    run.assert_nothing_is_left()


@pytest.mark.minutes(6)
@pytest.mark.sglang
@pytest.mark.timeout(900)
def test_the_quickstart_learns_with_the_real_sglang_too(tmp_path: Path) -> None:
    """Fewer steps: SGLang on a CPU takes about 6 s each."""
    run = Launched(tmp_path / "run", "--rollout.engine", "sglang", "--learner.max_steps", "14")
    assert run.process.wait(850) == 0, run.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert 0.4 <= summary["full_accuracy_before"] <= 0.6
    assert summary["gap_closed"] >= 1 / 3
    assert summary["crop_accuracy_after"] >= summary["crop_accuracy_before"] - 0.03
    assert summary["max_staleness_seen"] <= 1
    assert summary["trajectories_expired"] == 0
    assert "the probe agrees" in (run.folder / "logs" / "rollout-0.log").read_text()
    run.assert_nothing_is_left()
