import json
from pathlib import Path
from typing import Any

import pytest

from broker.ledger.quarantine import Quarantined
from broker.service.quarantine_file import QuarantineFile
from common.data_health import RefusedRow

ROW = RefusedRow(3, "s3", "box: it lies outside")
FIRST = Quarantined("s7", "rollout", "0/12", 3, "/generate: HTTP 500: no\u2028really")
SECOND = Quarantined("s9", "learner", "0/2", 1, "prompt tokens differ", step=4)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_rows_come_first_then_what_is_given_up_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    file = QuarantineFile(path, [ROW])
    file.update([])
    file.update([FIRST])
    file.update([FIRST, SECOND])
    assert entries(path) == [
        {"sample_id": "s3", "where": "reading", "row": 3, "group_id": None, "attempts": 0,
         "reason": "box: it lies outside"},
        {"sample_id": "s7", "where": "rollout", "row": None, "group_id": "0/12", "attempts": 3,
         "reason": FIRST.reason},
        {"sample_id": "s9", "where": "learner", "row": None, "group_id": "0/2", "attempts": 1,
         "reason": "prompt tokens differ"},
    ]  # fmt: skip


def test_a_broker_that_comes_back_repeats_nothing_and_mends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    QuarantineFile(path, [ROW]).update([FIRST])
    whole = path.read_bytes()
    QuarantineFile(path, [ROW]).update([FIRST])
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-9])
    QuarantineFile(path, [ROW]).update([FIRST])
    assert path.read_bytes() == whole


def test_a_refusal_that_a_rewind_has_undone_goes(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    file = QuarantineFile(path, [])
    records = [FIRST, SECOND]
    file.update(records)
    file.update([FIRST])
    assert [entry["sample_id"] for entry in entries(path)] == ["s7"]


def test_no_file_is_made_where_all_is_well(tmp_path: Path) -> None:
    QuarantineFile(tmp_path / "quarantine.jsonl", []).update([])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    file = QuarantineFile(folder / "quarantine.jsonl", [])
    records = [FIRST]
    for _ in range(3):
        file.update(records)
    assert caplog.text.count("No such file or directory") == 1
    folder.mkdir()
    file.update(records)
    assert [entry["sample_id"] for entry in entries(folder / "quarantine.jsonl")] == ["s7"]
