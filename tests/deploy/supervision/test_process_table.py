import json
from pathlib import Path

import pytest

from common.errors import VisionOpdError
from deploy.supervision.process_table import ProcessTable, read_processes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def table(tmp_path: Path) -> ProcessTable:
    return ProcessTable(tmp_path / "processes.json", Clock())


def test_what_happens_to_a_process_can_be_read_at_every_moment(
    table: ProcessTable, tmp_path: Path
) -> None:
    table.set("rollout-1", "waiting for a place", node="", pid=0)
    table.set("rollout-1", "starting", node="a")
    table.set("rollout-1", "up", pid=7)
    (entry,) = read_processes(tmp_path)
    assert (entry.state, entry.node, entry.pid, entry.restarts) == ("up", "a", 7, 0)
    assert table.is_up("rollout-1") and not table.is_up("rollout-2")

    table.note_restart("rollout-1", "was ended by SIGKILL")
    (entry,) = read_processes(tmp_path)
    assert (entry.state, entry.node, entry.pid, entry.restarts) == ("restarting", "a", 0, 1)
    assert [end.why for end in entry.ends] == ["was ended by SIGKILL"]
    assert not table.is_up("rollout-1")

    table.set("rollout-1", "ended")
    (entry,) = read_processes(tmp_path)
    assert entry.restarts == 1 and len(entry.ends) == 1
    table.remove("rollout-1")
    table.remove("rollout-1")
    assert read_processes(tmp_path) == table.entries() == []


def test_since_is_when_the_state_began(table: ProcessTable) -> None:
    """Also when a process looks for a place again and again."""
    table.set("broker", "waiting for a place", node="", pid=0)
    began = table.entries()[0].since
    table.set("broker", "waiting for a place", node="", pid=0)
    table.set("broker", "waiting for a place", node="a")
    assert table.entries()[0].since == began
    table.set("broker", "up")
    assert table.entries()[0].since > began


def test_entries_are_in_the_order_of_people(table: ProcessTable) -> None:
    for name in ("rollout-10", "rollout-2", "learner-1", "broker", "learner-0"):
        table.set(name, "up")
    names = [entry.name for entry in table.entries()]
    assert names == ["broker", "learner-0", "learner-1", "rollout-2", "rollout-10"]


def test_the_latest_ends_are_kept(table: ProcessTable) -> None:
    table.set("broker", "up")
    for number in range(30):
        table.note_restart("broker", str(number))
    (entry,) = table.entries()
    assert entry.restarts == 30
    assert [end.why for end in entry.ends] == [str(number) for number in range(10, 30)]


def test_a_disk_that_is_full_does_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = ProcessTable(tmp_path / "gone" / "processes.json")
    table.set("broker", "up")
    assert table.is_up("broker")
    assert "cannot be written" in caplog.text
    (tmp_path / "gone").mkdir()
    table.set("broker", "ended")
    assert read_processes(tmp_path / "gone")[0].state == "ended"


def test_a_folder_without_a_table_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(VisionOpdError, match=r"holds no processes\.json\. Fix: name the folder"):
        read_processes(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"processes": 1}', '{"processes": [{"name": "a"}]}', "\udcff"],
)
def test_a_damaged_table_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "processes.json").write_text(content, errors="surrogateescape")
    with pytest.raises(VisionOpdError, match=r"processes\.json cannot be read: .*Fix: "):
        read_processes(tmp_path)


def test_a_reader_of_another_version_sees_plain_json(table: ProcessTable, tmp_path: Path) -> None:
    table.set("broker", "up", node="a", pid=7)
    assert json.loads((tmp_path / "processes.json").read_text()) == {
        "processes": [
            {"name": "broker", "state": "up", "since": 1.0, "node": "a", "pid": 7, "restarts": 0,
             "ends": []}
        ]
    }  # fmt: skip
