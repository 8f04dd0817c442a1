"""Whole runs whose data or engine is poisoned: they end, and say of what they left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.poison.engine_kinds import KINDS, problem
from tests.poison.harness import good_row, run_on, write_rows

MAX_ATTEMPTS = 3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(660)]


def poisoned(folder: Path, num_good: int) -> Path:
    """Good rows and one of each kind."""
    rows = [good_row(folder, number) for number in range(num_good)]
    for number, kind in enumerate(KINDS, start=num_good):
        row = good_row(folder, number)
        rows.append(row | {"sample_id": kind.name, "problem": problem(kind)})
    return write_rows(folder, rows)


@pytest.mark.minutes(2.5)
def test_whatever_the_engine_does_to_a_sample_the_others_are_trained(tmp_path: Path) -> None:
    train = poisoned(tmp_path, num_good=16)
    ended = run_on(
        train, tmp_path / "run", "--data.max_refused_share", "1",
        "--rollout.request_timeout_s", "6", has_faults=True,
    )  # fmt: skip
    assert ended.code == 0, ended.output
    assert ended.summary["trajectories_trained"] == 4 * 16, "all good ones, four times each"
    assert ended.summary["samples_quarantined"] == len(KINDS)
    assert [ended.summary[key] for key in ("steps", "groups_left_over")] == [4, 0]
    found = {entry["sample_id"]: entry for entry in ended.quarantine}
    assert len(found) == len(ended.quarantine) == len(KINDS)
    for kind in KINDS:
        entry = found[kind.name]
        assert kind.reason in entry["reason"], kind.name
        assert (entry["where"], entry["attempts"]) == ("rollout", MAX_ATTEMPTS), kind.name
    assert "more than 5 times in an hour" not in ended.logs
    first = ended.summary["first_refused"]
    assert len(first) == 5 and all(ended.output.count(line) >= 1 for line in first)
    assert f"0 refused when they were read, {len(KINDS)} quarantined since" in ended.output


def answered_with(folder: Path, names: Sequence[str], num_good: int) -> Path:
    """Samples that get these answers, four of each, and good ones."""
    kinds = [kind for kind in KINDS if kind.name in names]
    rows = [good_row(folder, number) for number in range(num_good)]
    for number in range(4 * len(kinds)):
        kind = kinds[number // 4]
        row = good_row(folder, num_good + number)
        changes = {"sample_id": f"{kind.name} {number}", "problem": problem(kind)}
        rows.append(row | changes)
    return write_rows(folder, rows)


def test_too_many_poisoned_samples_end_the_run_and_say_so(tmp_path: Path) -> None:
    train = answered_with(tmp_path, ("400", "NaN"), num_good=8)
    ended = run_on(train, tmp_path / "run", "--broker.max_attempts", "1", has_faults=True)
    assert ended.code == 3, ended.output
    assert "the run ended because of its data: of 16 rows of data.train 2 qu" in ended.output
    assert ended.summary["data_fault"] and not ended.summary["interrupted"]
    assert "Fix: correct them, or raise data.max_refused_share" in ended.output


def test_a_run_that_trains_nothing_is_no_success(tmp_path: Path) -> None:
    train = answered_with(tmp_path, ("400", "500"), num_good=0)
    lenient = ("--data.max_refused_share", "1", "--broker.max_attempts", "1")
    ended = run_on(train, tmp_path / "run", *lenient, has_faults=True)
    assert ended.code == 3, ended.output
    assert "nothing was trained: no group came through: sample " in ended.output
    assert ended.summary["trajectories_trained"] == ended.summary["steps"] == 0
