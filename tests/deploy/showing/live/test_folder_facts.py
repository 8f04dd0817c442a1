import json
import os
from pathlib import Path

from deploy.showing.live.folder_facts import quarantine_of, read_folder, warnings_of


def samples(count: int) -> str:
    return "".join(
        json.dumps({"sample_id": f"s{n}", "where": "rollout", "row": None, "reason": f"bad {n}"})
        + "\n"
        for n in range(count)
    )


def test_quarantined_samples_come_with_their_reasons(tmp_path: Path) -> None:
    assert quarantine_of(tmp_path).total == 0
    file = tmp_path / "quarantine.jsonl"
    row = {"sample_id": None, "where": "reading", "row": 7, "reason": "no picture"}
    file.write_text(samples(1) + json.dumps(row) + "\nno json\n" + '{"half')
    found = quarantine_of(tmp_path)
    assert found.total == 3
    assert found.reasons == ("s0 (rollout): bad 0", "(no sample_id) (row 7): no picture")


def test_of_very_many_the_first_and_the_latest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "quarantine.jsonl").write_text(samples(5000))
    found = quarantine_of(tmp_path)
    assert found.total == 5000 and len(found.reasons) == 200
    assert found.reasons[0].startswith("s0 ") and found.reasons[-1].startswith("s4999 ")


def test_the_last_warnings_of_all_processes_come_by_their_times(tmp_path: Path) -> None:
    (tmp_path / "broker.log").write_bytes(
        b"2026-01-01 12:00:03.000+00:00 WARNING broker a: late \x1b[31mred\x1b]0;t\x07\n"
        b"2026-01-01 12:00:04.000+00:00 INFO    broker a: no WARNINGS\n"
    )
    (tmp_path / "engine-0.log").write_text(
        "[2026-01-01 12:00:01] ERROR: boom\nTraceback (most recent call last):\nValueError: x\n"
    )
    assert [name for name, _ in warnings_of(tmp_path)][-1] == "broker"
    text = "\n".join(line for _, line in warnings_of(tmp_path))
    assert text.index("boom") < text.index("Traceback") < text.index("ValueError: x")
    assert ("broker", "12:00:03 WARNING a: late red?]0;t?") in warnings_of(tmp_path)
    assert "no WARNINGS" not in text
    assert warnings_of(tmp_path / "none") == ()


def test_a_folder_that_cannot_be_read_is_a_problem_in_words(tmp_path: Path) -> None:
    facts = read_folder(tmp_path, "overview", None)
    assert "holds no run" in facts.problem and "holds no processes.json" in facts.problem
    assert facts.steps == () and facts.sentence == ""


def test_a_read_only_folder_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "quarantine.jsonl").write_text(samples(1))
    before = sorted(os.listdir(tmp_path))
    tmp_path.chmod(0o500)
    try:
        assert read_folder(tmp_path, "logs", None).quarantine.total == 1
    finally:
        tmp_path.chmod(0o700)
    assert sorted(os.listdir(tmp_path)) == before
