"""The published experiment in miniature: the real SGLang, launcher, learner, export and client."""

import json
import sys
from pathlib import Path

import pytest

from common.engines.sglang import VENV
from tests.rehearsal.photographs import NUM_BAD_ROWS
from tests.rehearsal.processes import running
from tests.rehearsal.settings import NUM_STEPS

LIMIT_S = 700.0  # it takes under 300 on a quiet machine
DRAIN_S = 40.0  # more than the rehearsal gives to what it has started
pytestmark = [pytest.mark.sglang, pytest.mark.timeout(760)]


@pytest.mark.minutes(3)
def test_the_published_experiment_runs_from_rows_to_an_answer(tmp_path: Path) -> None:
    if not VENV.exists():
        pytest.fail("no .venv-sglang. Fix: run deploy/setup.sh sglang")
    out = tmp_path / "out"
    words = [sys.executable, "-m", "tests.rehearsal.run", "--out", out]
    with running(words, tmp_path / "log", drain_s=DRAIN_S) as rehearsal:
        code = rehearsal.wait(LIMIT_S)
    report = json.loads((out / "report.json").read_text())
    failed = [check for check in report["checks"] if not check["is_good"]]
    assert failed == [] and code == 0, rehearsal.output()
    assert report["is_good"]
    assert [row["step"] for row in report["steps"]] == [*range(1, NUM_STEPS + 1)]
    assert len(report["refused"]) >= NUM_BAD_ROWS
    assert (out / "report.md").read_text().startswith("# Rehearsal: every check holds")
