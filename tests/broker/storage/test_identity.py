"""A changed key, data set or format of a run that goes on is named as a person knows it."""

from pathlib import Path
from typing import Any

import pytest

from broker.service.opening import open_durable
from broker.storage.disk import FolderDisk
from broker.storage.identity import check_same_run, facts_of, notes_of
from broker.storage.recovery import check_journal
from common.errors import ConfigError
from common.journal_file import JOURNAL
from common.source import SampleSource
from tests.broker.support import make_rules, make_source

PATH = "/data/train.parquet"


def facts(samples: int = 8, path: str = PATH, **rules: Any) -> dict[str, Any]:
    source = SampleSource(make_source(samples).samples, student={"view": "full"})
    return {**facts_of(source, make_rules(2, 1, **rules)), **notes_of(source, path)}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"groups_per_step": 3}, "learner.groups_per_step = 3, but .* was begun with 2. Fix: --l"),
        ({"max_staleness": 4}, "broker.max_staleness = 4, but .* begun with 1"),
        ({"trajectories_per_sample": 9}, "rollout.trajectories_per_sample = 9, but "),
        ({"epochs": 2}, "data.epochs = 2, but .* begun with 1. Fix: --data.epochs 1, or"),
        ({"shuffle": False}, "data.shuffle = false, but .* begun with true"),
        ({"student": {"view": "degraded"}}, "student.view = degraded, but .* begun with full"),
        ({"seed": 5}, "run.seed = 5, but .* begun with 0"),
        ({"format": 99}, "run.folder: its journal has format"),
    ],
)
def test_a_changed_rule_is_named_by_its_key(now: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_same_run(facts(), facts() | now)


def test_changed_data_is_told_with_its_rows_and_never_as_a_digest() -> None:
    for changed, message in (
        (facts(7), f"data.train = '{PATH}': its content changed .*8 usable rows then, 7 now"),
        (facts() | {"samples": "0" * 64}, "8 usable rows as then, but others"),
        (facts(7, "/x.parquet"), f"'/x.parquet': other samples than those of '{PATH}'"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            check_same_run(facts(), changed)
        assert facts()["samples"] not in str(caught.value) and "\n" not in str(caught.value)


def test_what_may_change_is_no_other_run() -> None:
    check_same_run(facts(), facts(lease_s=7.0, max_attempts=9, max_steps=3))
    check_same_run(facts(), facts(path="/moved/train.parquet"))
    older = facts()
    del older["num_samples"], older["dataset"]
    check_same_run(older, facts())
    with pytest.raises(ConfigError, match=r"\? usable rows then, 7 now"):
        check_same_run(older, facts(7))


def test_looking_at_a_journal_touches_nothing(tmp_path: Path) -> None:
    source, rules = make_source(8), make_rules(2, 1)
    assert check_journal(tmp_path / "none", source, rules, PATH) is False
    assert list(tmp_path.iterdir()) == []
    disk = FolderDisk(tmp_path / "journal")
    open_durable(disk, source, rules, fsync="never", dataset=PATH)[1].close()
    journal = tmp_path / "journal" / JOURNAL
    before = (journal.read_bytes(), journal.stat().st_mtime_ns)
    assert check_journal(tmp_path / "journal", source, rules, PATH) is True
    with pytest.raises(ConfigError, match="8 usable rows then, 9 now"):
        check_journal(tmp_path / "journal", make_source(9), rules, PATH)
    assert (journal.read_bytes(), journal.stat().st_mtime_ns) == before
