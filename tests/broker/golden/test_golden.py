"""A journal and its segments from an earlier build: every later build must understand them."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from broker.journal import main
from broker.ledger.commands import COMMANDS
from broker.storage.durable import STORED
from broker.storage.frames import Record, read_records
from broker.storage.recovery import NOTES
from common.journal_file import JOURNAL
from tests.broker.golden.make import DATASET, JOURNAL_FOLDER, STATE, Life, play, rules, state_of

_FIX = (
    "the golden journal means something else now. Fix: undo the change, or raise FORMAT in "
    "broker/storage/identity.py and make it anew (python -m tests.broker.golden.make)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the journal's folder, as it stands in a run."""
    return Path(shutil.copytree(JOURNAL_FOLDER, tmp_path / "run" / "journal"))


def records_of(folder: Path) -> list[Record]:
    return list(read_records((folder / JOURNAL).read_bytes()))


def test_it_has_every_kind_of_record() -> None:
    found = {record.command for record in records_of(JOURNAL_FOLDER)}
    assert found == COMMANDS.keys() | NOTES.keys()
    assert len(list(JOURNAL_FOLDER.glob("segment-*.arrow"))) > 1


def test_it_replays_to_the_state_that_it_had_and_each_group_can_be_read() -> None:
    pinned = json.loads(STATE.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(state_of(JOURNAL_FOLDER)))
    assert len(found["groups"]) > 1
    assert found == pinned, _FIX


def test_this_build_writes_the_same_records(tmp_path: Path) -> None:
    """All but the places in the segments, whose bytes are Arrow's."""

    def shape(record: Record) -> tuple[object, ...]:
        is_stored = record.command == STORED
        arguments = record.arguments[:3] if is_stored else record.arguments
        return record.seconds, record.command, arguments, record.outcome

    play(tmp_path)
    assert [*map(shape, records_of(tmp_path))] == [*map(shape, records_of(JOURNAL_FOLDER))], _FIX


def test_a_broker_goes_on_from_it(folder: Path) -> None:
    with Life(folder, "boot-2", rules(lease_s=20.0, max_steps=6)) as life:
        assert life.ledger.version == 3
        life.hello(5, "l0", "r0")
        life.resume("l0", 3)
        life.serve("r0")
        life.train(4, "l0")
        life.ledger.check()


def test_the_journals_tools_read_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder.parent)
    main([run, "verify"])
    shown = capsys.readouterr().out
    assert "2 groups a step, staleness <= 1" in shown and "all checksums are right" in shown
    main([run, "replay", "--data", str(DATASET)])
    assert "every call came to what it came to then" in capsys.readouterr().out
    main([run, "dump", str(tmp_path / "records.jsonl")])
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == len(records_of(folder))
    main([run, "dump", str(tmp_path / "groups.parquet")])
    assert pq.read_table(tmp_path / "groups.parquet").num_rows > 0
    capsys.readouterr()
    main([run, "repair"])
    assert "nothing to repair" in capsys.readouterr().out
