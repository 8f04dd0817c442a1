"""The benchmark of measurements runs both builds; its figures are not judged here."""

from pathlib import Path

import pytest

from tests.bench.evaluation import figures, noise
from tests.bench.written import figures_of

SMALL = (
    "--runs 1 --learner.groups_per_step 8 --learner.max_steps 3 --evaluation.every_steps 2 "
    "--evaluation.samples 16 --evaluation.interim_samples 8 --evaluation.shown 2"
)


@pytest.mark.minutes(1.5)
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_evaluation_bench_writes_its_figures(tmp_path: Path) -> None:
    found = figures_of("evaluation", tmp_path, SMALL)
    assert found["quickstart_speedup"]["median"] > 0
    assert 0 < found["learner_share_then"]["median"] < 1
    (then,), (now,) = found["runs"]["then"], found["runs"]["now"]
    assert then["full_accuracy_before"] == now["full_accuracy_before"]
    assert list(now["measuring_s_by_step"]) == ["0", "2", "3"]


def test_figures_are_of_pairs_of_runs_and_leave_the_last_wait_apart() -> None:
    then = {"seconds": 90.0, "measuring_s": 27.0, "full_accuracy_after": 0.9, "samples": 512}
    now = {"seconds": 60.0, "measuring_s": 6.0, "last_s": 4.5, "full_accuracy_after": 0.89}
    found = figures([then], [now])
    assert found["quickstart_speedup"]["median"] == 1.5
    assert found["learner_share"]["median"] == 0.1
    assert found["learner_share_training"]["median"] == 0.025
    assert found["learner_share_then"]["median"] == 0.3
    assert noise(0.5, 200) == pytest.approx(0.05)
