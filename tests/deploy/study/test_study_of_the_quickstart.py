"""A study of real runs, made small: killed in its second run, and gone on with."""

import json
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.cluster.process_specs import ROOT
from deploy.supervision.run_folder import check_unowned
from tests.deploy.study.studies import Study
from tests.waiting import wait_until

QUICKSTART = ROOT / "deploy" / "configs" / "quickstart.toml"
TEXT = """
[study]
name = "small"
config = "base.toml"
seeds = [0]
[variants.stale]
[variants.synchronous]
overrides = { "broker.max_staleness" = 0 }
"""
BASE = f"""
extends = "{QUICKSTART}"
[learner]
max_steps = 12
groups_per_step = 4
[evaluation]
samples = 8
interim_samples = 4
shown = 1
"""
WAIT_S = 200


@pytest.mark.minutes(2)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_study_of_the_quickstart_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path, TEXT, BASE, launcher="-m deploy.launch")
    second = study.out / "synchronous.seed-0"
    with study.start() as process:
        wait_until(lambda: steps(second) >= 2, WAIT_S)
        process.kill()
    wait_until(lambda: is_free(second), WAIT_S)
    assert 2 <= steps(second) < 12
    code, said = study.run()
    assert code == 0, said
    assert "synchronous.seed-0: goes on" in said and "stale.seed-0: begins" not in said
    runs = study.results()["runs"]
    assert runs["synchronous.seed-0"]["figures"]["staleness_max"] == 0
    assert runs["stale.seed-0"]["figures"]["staleness_max"] == 1
    for run in runs.values():
        assert run["figures"]["steps"] == 12
        assert 0 <= run["figures"]["full_after"] <= 1
        assert 0 < run["figures"]["rollout_idle"] < 1 and 0 <= run["figures"]["learner_idle"] < 1
    differences = study.results()["variants"]["synchronous"]["differences"]
    assert differences["staleness_mean"]["mean"] < 0
    assert (study.out / "study.html").read_text().count("<svg") >= 8


def steps(folder: Path) -> int:
    """Trained so far."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def is_free(folder: Path) -> bool:
    try:
        check_unowned(folder)
    except ConfigError:
        return False
    return True
