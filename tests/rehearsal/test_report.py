"""What a rehearsal changes of the published run, and what its report says of recorded facts."""

import json
import tomllib
from pathlib import Path

import pytest

from common.config import RunConfig
from common.config_cli import load
from tests.rehearsal import evidence
from tests.rehearsal.processes import RehearsalError, run, running
from tests.rehearsal.report import Report, Stage, page, table
from tests.rehearsal.settings import ALLOWED, CONFIG, GROUPS_PER_STEP, as_arguments, overrides

STEP = {
    "step": 1,
    "learner/loss_nats": 0.003,
    "learner/mismatch_kl_nats": 0.0002861513,
    "learner/refused_groups": 0.0,
}


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("is_tiny", [True, False])
def test_a_rehearsal_changes_nothing_but_paths_sizes_counts_and_device(
    tmp_path: Path, is_tiny: bool, has_gpu: bool
) -> None:
    changes = overrides(
        "model", tmp_path / "rows.parquet", tmp_path / "run", is_tiny=is_tiny, has_gpu=has_gpu
    )
    assert changes.keys() <= ALLOWED
    config = load(as_arguments(changes))
    published = load(["--config", str(CONFIG)])
    for section in RunConfig.model_fields:
        ours, theirs = getattr(config, section), getattr(published, section)
        for key in type(ours).model_fields:
            if getattr(ours, key) != getattr(theirs, key):
                assert f"{section}.{key}" in changes


def test_what_may_be_changed_is_no_part_of_the_method() -> None:
    method = {"objective", "teacher", "optimizer", "prompt", "weights", "health"}
    assert not {key for key in ALLOWED if key.partition(".")[0] in method}
    assert not {"model.dtype", "rollout.temperature", "broker.max_staleness"} & ALLOWED


def test_every_allowed_key_is_one_of_the_configuration() -> None:
    for key in ALLOWED:
        section, _, name = key.partition(".")
        assert name in type(getattr(RunConfig(), section)).model_fields, key


def test_the_published_file_is_the_one_that_is_used() -> None:
    tree = tomllib.loads(CONFIG.read_text())
    assert tree["objective"]["divergence"] == "jsd"
    assert tree["learner"]["groups_per_step"] > GROUPS_PER_STEP


# ---- the report ----------------------------------------------------------------------------------
def recorded() -> Report:
    report = Report()
    report.stages.append(Stage("train", 12.3, "exit code 0"))
    report.check("pushes were verified", True, "6 probes agree")
    report.steps.append(STEP)
    report.prompt_tail = "assistant\n<think>\n\n</think>\n\n"
    report.pixels.append({"sample_id": "line-1", "learner": "a" * 64, "engine": None})
    report.probes += [0.0123, 0.02]
    report.verified_versions += [0, 1]
    report.weight_versions += [0, 1]
    report.refused.append("left out: line 25: no such file")
    report.answer |= {"text": "B | C\n", "prompt_tokens": 900}
    report.versions |= {"torch": "2.13"}
    report.settings |= {"learner.ranks": "2"}
    return report


def test_the_page_tells_all_that_was_recorded() -> None:
    text = page(recorded())
    assert text.startswith("# Rehearsal: every check holds\n")
    for part in (
        "| train | 12.3 | exit code 0 |",
        "| pushes were verified | ok | 6 probes agree |",
        "| 1 | - | - | 0.0002862 | - | - | - | - | 0 |",
        r"ends in `'assistant\n<think>\n\n</think>\n\n'`",
        "| line-1 | aaaaaaaaaaaaaaaa | - |",
        "Verified versions: [0, 1]; mean differences of the probes (nats): 0.012, 0.02",
        "[0, 1]",
        "- left out: line 25: no such file",
        r"| text | B \| C |",
        "| torch | 2.13 |",
        "| learner.ranks | 2 |",
    ):
        assert part in text, part


def test_a_failed_check_is_told_first() -> None:
    report = recorded()
    report.check("the prompt does not ask for thinking", False, "it ends in '<think>'")
    lines = page(report).splitlines()
    assert lines[0] == "# Rehearsal: NOT GOOD"
    assert lines[1] == "- **the prompt does not ask for thinking**: it ends in '<think>'"
    assert not report.is_good and report.as_json()["is_good"] is False


def test_a_rehearsal_that_checked_nothing_is_not_good() -> None:
    assert not Report().is_good
    assert "NOT GOOD" in page(Report())


def test_the_report_is_json() -> None:
    assert json.loads(json.dumps(recorded().as_json()))["probes"] == [0.0123, 0.02]


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(("a", "b"), [(1, None), (0.123456, "x")]) == (
        "| a | b |\n| --- | --- |\n| 1 | - |\n| 0.1235 | x |"
    )


# ---- what it reads -------------------------------------------------------------------------------
def test_evidence_is_read_from_logs_and_metrics(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rollout-0.log").write_text(
        "t INFO rollout-0 rollout.weights: the probe agrees to 0.022 nats\n"
        "t INFO rollout-0 rollout.weights: the probe agrees to 1.5e-06 nats\n"
        "t INFO rollout-0 rollout.weights: serving version 0 after 0.2 s (1 buckets)\n"
        "t INFO rollout-0 rollout.weights: serving version 1 after 0.2 s (1 buckets)\n"
    )
    (tmp_path / "logs/broker.log").write_text(
        "t WARNING broker common.source: left out: f.parquet row 3: box: too small\n"
        + "t WARNING broker broker.service.requests: 0/7 given back: HTTP 500\n" * 2
        + "t WARNING broker broker.service.requests: 0/7 quarantined: image x.jpg is cut off\n"
        "t INFO broker common.source: f.parquet: 24 samples, 1 bad rows left out\n"
    )
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps(STEP) + "\n" + json.dumps({"step": 1, "evaluation/x": 1}) + '\n{"step": 2, "lea'
    )
    assert evidence.probe_differences(tmp_path) == [0.022, 1.5e-06]
    assert evidence.verified_versions(tmp_path) == [0]  # nothing was asked about version 1
    assert evidence.refusals(tmp_path) == [
        "left out: f.parquet row 3: box: too small",
        "given back: HTTP 500 (2 times)",
        "0/7 quarantined: image x.jpg is cut off",
    ]
    assert evidence.step_rows(tmp_path) == [STEP] and evidence.last_step(tmp_path) == 1


def test_a_run_that_never_began_has_no_evidence(tmp_path: Path) -> None:
    assert evidence.step_rows(tmp_path) == [] and evidence.checkpoints(tmp_path) == []
    assert evidence.engine_pixels(tmp_path / "none.jsonl") == set()


# ---- processes -----------------------------------------------------------------------------------
def test_a_command_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match=r"(?s)ended with 3.*some words"):
        run(["bash", "-c", "echo some words; exit 3"], tmp_path / "log", 30)


def test_a_process_that_ends_too_soon_is_not_waited_for(tmp_path: Path) -> None:
    with (
        running(["bash", "-c", "exit 4"], tmp_path / "log") as command,
        pytest.raises(RehearsalError, match="ended with 4 before noon"),
    ):
        command.wait_until(lambda: False, "noon", 30)


def test_a_process_does_not_outlive_the_block_that_it_runs_in(tmp_path: Path) -> None:
    with running(["sleep", "600"], tmp_path / "log") as command:
        assert command.process.poll() is None
    assert command.process.returncode == -15
