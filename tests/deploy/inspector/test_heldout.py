"""Held-out items over the measurements of a run."""

from pathlib import Path
from typing import Any

import pytest

from deploy.inspector.followed import FollowedRows
from deploy.inspector.heldout import HeldoutItems
from tests.deploy.inspector.runs import write_lines


def row(sample_id: str, full: bool | None, text: str = "It is 3.", set_name: str = "own") -> dict:
    return {
        "sample_id": sample_id,
        "set": set_name,
        "question": f"Which digit has {sample_id}?",
        "answer": "3",
        "full": None if full is None else {"text": text, "is_correct": full},
        "crop": {"text": "Crop says 3.", "is_correct": True},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "heldout"
    write_lines(
        folder / "step-000000.jsonl",
        [row("a", False), row("b", True), row("c", True), row("d", False, set_name="vstar")],
    )
    write_lines(folder / "step-000020.jsonl", [row("a", False), row("c", None)])
    write_lines(
        folder / "step-000100.jsonl",
        [row("a", True, "It is Straße."), row("b", False), row("c", True), row("d", False)],
    )
    with (folder / "step-000100.jsonl").open("a") as file:
        file.write('{"sample_id": "torn')
    write_lines(folder / "notes.jsonl", [row("z", True)])
    return tmp_path


def heldout(run: Path, *given: Any, **more: Any) -> dict:
    return HeldoutItems(run).page(*given, **more)


def names(answer: dict) -> list[str]:
    return [item["sample_id"] for item in answer["items"]]


def test_items_have_their_answers_by_version(run: Path) -> None:
    found = heldout(run)
    assert found["versions"] == [0, 20, 100] and found["sets"] == ["own", "vstar"]
    assert names(found) == ["a", "b", "c", "d", "d"] and found["total"] == 5
    answers = found["items"][0]["answers"]
    assert list(answers) == ["0", "20", "100"]
    assert answers["100"]["full"] == {"text": "It is Straße.", "is_correct": True}
    assert found["items"][2]["answers"]["20"]["full"] is None


def test_items_are_filtered_by_change_set_and_text(run: Path) -> None:
    assert names(heldout(run, "gained")) == ["a"]
    assert names(heldout(run, "lost")) == ["b"]
    assert names(heldout(run, "same")) == ["c", "d", "d"]
    assert names(heldout(run, set_name="vstar")) == ["d"]
    assert names(heldout(run, text="STRASSE")) == ["a"]
    assert names(heldout(run, text="digit has b")) == ["b"]


def test_items_come_in_pages(run: Path) -> None:
    found = heldout(run, limit=2, offset=1)
    assert names(found) == ["b", "c"] and found["total"] == 5


def test_each_line_is_read_once_however_often_is_asked(run: Path, monkeypatch) -> None:
    read: list[bytes] = []
    parsed = FollowedRows._parsed

    def counted(self: FollowedRows, line: bytes) -> dict | None:
        read.append(line)
        return parsed(self, line)

    monkeypatch.setattr(FollowedRows, "_parsed", counted)
    items = HeldoutItems(run)
    assert items.page() == items.page() == heldout(run) and len(read) == 2 * 10
    write_lines(run / "heldout" / "step-000200.jsonl", [row("a", False)])
    assert items.page()["versions"] == [0, 20, 100, 200] and len(read) == 2 * 10 + 1
    write_lines(run / "heldout" / "step-000020.jsonl", [row("x", True)])
    (run / "heldout" / "step-000100.jsonl").unlink()
    assert items.page() == heldout(run)


def test_a_part_of_another_kind_is_none(tmp_path: Path) -> None:
    odd = {**row("a", True), "crop": 3, "question": None, "full": {"text": None}}
    write_lines(tmp_path / "heldout" / "step-000001.jsonl", [odd])
    (item,) = heldout(tmp_path)["items"]
    answers = {"full": {"text": "", "is_correct": False}, "crop": None}
    assert item["question"] is None and item["answers"] == {"1": answers}


def test_a_run_without_measurements_has_no_items(tmp_path: Path) -> None:
    assert heldout(tmp_path) == {"versions": [], "sets": [], "total": 0, "items": []}
