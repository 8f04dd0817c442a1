"""The broker, its clients and its disk in a virtual world: as many seeds as time allows."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.broker.proof.simulator import simulate
from tests.repetitions import repeated

ROOT = Path(__file__).resolve().parents[3]
SEEDS = repeated(some=1_000, full=10_000)
PROCESSES = 2


@pytest.mark.parametrize("block", range(4))
def test_some_seeds(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        simulate(seed)


def test_a_seed_decides_everything() -> None:
    for seed in (2, 3, 7, 11):
        assert simulate(seed) == simulate(seed)


@pytest.mark.proof
@pytest.mark.timeout(1500)
def test_thousands_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    share = SEEDS // PROCESSES
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.broker.proof.simulator", str(a), str(a + share)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for a in range(0, SEEDS, share)
    ]
    totals: Counter[str] = Counter()
    try:
        for run in runs:
            told, errors = run.communicate()
            assert run.returncode == 0, errors
            totals += Counter(json.loads(told))
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    with capsys.disabled():
        print(f"\nsimulator: {dict(totals)}")
    assert totals["runs"] == SEEDS
    for fault in ("kill broker", "kill rollout", "kill learner", "power", "full disk", "cut off"):
        assert totals[fault] > SEEDS / 10, f"{fault} has become rare: the seeds prove less"
