import errno
import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest

from common import spans
from common.full_disk import append_whole
from common.spans import SpanFile


def marks(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def closed(path: Path, max_bytes: int, *names: str) -> list[dict]:
    """What a file holds after a life that noted these marks."""
    file = SpanFile(path, max_bytes)
    for name in names:
        file.note(name, time.monotonic())
    file.close()
    return marks(path) if path.exists() else []


def test_what_a_process_notes_is_in_its_file_on_the_clock_of_1970(tmp_path: Path):
    before = time.time()
    with spans.recorded(tmp_path, "learner-0", max_mib=1):
        with spans.span("outer", step=3):
            began = time.monotonic()
            spans.note("inner", began, began + 0.25, version=2)
        spans.flush()
    process, inner, outer = marks(tmp_path / "spans" / "learner-0.jsonl")
    assert process["name"] == "process" and process["pid"] > 0
    assert inner["name"] == "inner" and inner["version"] == 2
    assert inner["end_s"] - inner["begin_s"] == pytest.approx(0.25, abs=2e-6)
    assert outer["step"] == 3 and before - 0.01 <= outer["begin_s"] <= inner["begin_s"]


def test_a_block_that_raises_is_noted(tmp_path: Path):
    with (
        spans.recorded(tmp_path, "broker", max_mib=1),
        pytest.raises(ValueError),
        spans.span("work"),
    ):
        raise ValueError
    assert [mark["name"] for mark in marks(tmp_path / "spans" / "broker.jsonl")][1:] == ["work"]


def test_another_thread_is_named(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    file = SpanFile(path, 2**20)
    thread = threading.Thread(target=lambda: file.note("send", 1.0, 2.0), name="publisher_0")
    thread.start()
    thread.join()
    file.close()
    assert [mark.get("thread") for mark in marks(path)] == [None, "publisher"]


@pytest.mark.parametrize("folder", [None, Path("not/there")])
def test_without_a_run_folder_nothing_is_kept(folder: Path | None, tmp_path: Path):
    where = folder and tmp_path / folder
    with spans.recorded(where, "broker", max_mib=1):
        spans.note("work", 1.0, 2.0)
    assert list(tmp_path.iterdir()) == []


def test_marks_can_be_turned_off(tmp_path: Path):
    with spans.recorded(tmp_path, "broker", max_mib=0), spans.span("work"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_stops_at_its_bound_and_says_so(tmp_path: Path, caplog):
    path = tmp_path / "a.jsonl"
    bound = spans._RESERVED_BYTES + 1000
    first = closed(path, bound, *["work"] * 50)
    assert first[-1]["name"] == "full" and 2 < len(first) < 20
    more = closed(path, bound, "more")
    assert [mark for mark in more if mark["name"] != "full"] == first[:-1]
    assert path.stat().st_size <= bound and "run.spans_mib is reached" in caplog.text
    assert f"{52 - len(first)} marks were not written" in caplog.text


def test_room_is_kept_for_what_later_lives_undo(tmp_path: Path):
    """Without it what they undid would count, and the broker's times would lie anywhere."""
    path = tmp_path / "a.jsonl"
    closed(path, 2**16, *["work"] * 2000)
    for step in (7, 3):
        file = SpanFile(path, 2**16)
        file.note("goes_on", time.monotonic(), step=step)
        file.note("clock", time.monotonic(), clock_s=5.0)
        file.note("work", time.monotonic())
        file.close()
    kept = [(mark["name"], mark.get("step")) for mark in marks(path) if mark["name"] != "full"]
    assert kept[-4:] == [("goes_on", 7), ("clock", None), ("goes_on", 3), ("clock", None)]
    for _ in range(40):
        closed(path, 2**16, *["goes_on"] * 20)
    assert 2**16 - 200 < path.stat().st_size <= 2**16 + 40  # a line's end each life


def test_a_disk_that_was_full_takes_no_room(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.jsonl"
    closed(path, 2**20, *["work"] * 50)
    bound = 2 * path.stat().st_size + spans._RESERVED_BYTES
    is_full, refused, opened = True, threading.Semaphore(0), list[io.FileIO]()

    def appended(file: io.FileIO, content: bytes) -> None:
        if is_full:
            opened.append(file)
            refused.release()
            raise OSError(errno.ENOSPC, "No space left on device")
        append_whole(file, content)

    monkeypatch.setattr(spans, "append_whole", appended)
    file = SpanFile(path, bound)
    for _ in range(20):
        file.note("lost", time.monotonic())
        file.flush()
        assert refused.acquire(timeout=30)
    is_full = False
    file.note("after", time.monotonic())
    file.close()
    assert marks(path)[-1]["name"] == "after"
    assert all(file.closed for file in opened)


def test_a_fact_that_json_cannot_hold_costs_its_mark_alone(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)
    circle: list[object] = []
    circle.append(circle)
    path = tmp_path / "a.jsonl"
    file = SpanFile(path, 2**20)
    for fact in ({1}, circle, 3):
        file.note("work", 1.0, fact=fact)
    file.close()
    assert [mark.get("fact") for mark in marks(path)] == [None, 3]
    first, last = caplog.messages
    assert "work: TypeError: Object of type set" in first and "2 marks were not written" in last


def test_an_error_of_the_writing_thread_is_not_its_end(tmp_path: Path, monkeypatch, caplog):
    path = tmp_path / "a.jsonl"
    has_failed = threading.Event()

    def failing(file: io.FileIO, content: bytes) -> None:
        monkeypatch.setattr(spans, "append_whole", append_whole)
        has_failed.set()
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(spans, "append_whole", failing)
    file = SpanFile(path, 2**20)
    file.flush()
    assert has_failed.wait(30)
    file.note("work", time.monotonic())
    file.close()
    assert [mark["name"] for mark in marks(path)] == ["work"]
    assert "RuntimeError: unforeseen" in caplog.text


def test_closing_is_seen_whenever_it_comes(tmp_path: Path, monkeypatch):
    """Here it comes as the thread clears what wakes it, and a mark as the thread writes."""
    path = tmp_path / "a.jsonl"
    file = SpanFile(path, 2**20)
    clear = file._wake.clear

    def closed_before() -> None:
        file._is_closing = True
        file._wake.set()
        clear()

    def noted_before(opened: io.FileIO, content: bytes) -> None:
        monkeypatch.setattr(spans, "append_whole", append_whole)
        file.note("late", time.monotonic())
        append_whole(opened, content)

    monkeypatch.setattr(file._wake, "clear", closed_before)
    monkeypatch.setattr(spans, "append_whole", noted_before)
    file.flush()
    file._thread.join(10)
    assert not file._thread.is_alive()
    assert [mark["name"] for mark in marks(path)] == ["process", "late"]


def test_a_life_that_was_killed_within_a_line_does_not_spoil_the_next(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"name": "wor')
    file = SpanFile(path, 2**20)
    file.note("work", 1.0, 2.0)
    file.close()
    torn, *whole = path.read_text().splitlines()
    assert torn == '{"name": "wor'
    assert [json.loads(line)["name"] for line in whole] == ["process", "work"]


def test_a_disk_that_refuses_costs_marks_and_nothing_else(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "spans").write_text("a file where the folder would be")
    with spans.recorded(tmp_path, "learner-0", max_mib=1):
        for _ in range(200):
            spans.note("work", 1.0, 2.0)
    dropped = [record for record in caplog.records if "are dropped" in record.message]
    assert len(dropped) == 1 and "201 marks were not written" in caplog.text


def test_marks_that_wait_for_a_disk_are_bounded(tmp_path: Path, monkeypatch):
    """What hangs is the writing thread alone: it is stopped here before it opens the file."""
    released = threading.Event()

    def hanging(self: SpanFile) -> None:
        released.wait()
        raise OSError("gone")

    monkeypatch.setattr(SpanFile, "_opened", hanging)
    monkeypatch.setattr(spans, "_MOST_WAITING", 100)
    file = SpanFile(tmp_path / "a.jsonl", 2**20)
    for _ in range(1000):
        file.note("work", 1.0, 2.0)
    assert len(file._waiting) <= 100
    released.set()
    file.close()
    assert not file._thread.is_alive()
