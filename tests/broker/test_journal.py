"""python -m broker.journal on the folder of a small run."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from broker.journal import main
from broker.ledger.entry import Rules
from broker.service.opening import open_durable
from broker.storage.disk import FolderDisk
from common.dataset import read_samples
from common.journal_file import JOURNAL
from common.source import SampleSource
from tests.broker.fingerprint import fingerprint
from tests.broker.storage.support import Bench, busy
from tests.broker.support import make_rules, write_dataset

Run = tuple[Path, Bench]


class DatasetBench(Bench):
    """On a dataset that lies in a file."""

    def open(self) -> None:
        samples, _ = read_samples(self.folder.parent / "train.parquet")
        self.service, self.store, self.started_at = open_durable(
            FolderDisk(self.folder), SampleSource(samples), self.rules,
            dataset=str(self.folder.parent / "train.parquet"), **self.options,
        )  # fmt: skip
        self.now = self.started_at


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_dataset(tmp_path, 8)
    rules: Rules = make_rules(2, 1)
    bench = DatasetBench(tmp_path / "journal", rules)
    bench.hello("l0", "r0")
    bench.train(1)
    bench.store._disk.close()
    return tmp_path, bench


def test_verify_sums_up(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run[0])])
    shown = capsys.readouterr().out
    assert "2 groups a step, staleness <= 1" in shown and "submits: accepted 4" in shown
    assert "steps acknowledged: 1, the last 1" in shown and "all checksums are right" in shown


def test_dump_writes_records_and_trajectories(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run[0]), "dump", str(tmp_path / "records.jsonl")])
    records = [json.loads(x) for x in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [record["number"] for record in records] == list(range(len(records)))
    lease = next(record for record in records if record["command"] == "lease")
    assert lease["outcome"] == [["0/0", 0], ["0/1", 0], ["0/2", 0], ["0/3", 0]]
    main([str(run[0]), "dump", str(tmp_path / "groups.parquet")])
    table = pq.read_table(tmp_path / "groups.parquet")
    assert table.num_rows == 8 and set(table.column("group_id").to_pylist()) == {
        "0/0", "0/1", "0/2", "0/3",
    }  # fmt: skip
    with pytest.raises(SystemExit, match="Fix: name a file"):
        main([str(run[0]), "dump", str(tmp_path / "records.csv")])


def test_replay_makes_the_same_decisions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run[0] / "journal"), "replay"])
    shown = capsys.readouterr().out
    assert "every call came to what it came to then" in shown and "samples_trained" in shown
    (run[0] / "train.parquet").rename(run[0] / "moved.parquet")
    with pytest.raises(SystemExit, match="Fix: --data FILE"):
        main([str(run[0]), "replay"])
    main([str(run[0]), "replay", "--data", str(run[0] / "moved.parquet")])


def test_repair_keeps_what_is_before_the_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = busy(tmp_path)
    bench.store._disk.close()
    path = tmp_path / JOURNAL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="is damaged"):
        main([str(tmp_path)])
    main([str(tmp_path), "repair"])
    assert (tmp_path / "journal.damaged").read_bytes() == content
    main([str(tmp_path), "repair"])
    assert "nothing to repair" in capsys.readouterr().out
    bench.open()
    fingerprint(bench.ledger)
    bench.ledger.check()


def test_damaged_trajectories_are_named(run: Run) -> None:
    (segment,) = (run[0] / "journal").glob("segment-*")
    content = bytearray(segment.read_bytes())
    content[-30] ^= 1
    segment.write_bytes(content)
    with pytest.raises(SystemExit, match=r"1 groups are damaged, in segment-000001\.arrow"):
        main([str(run[0])])


def test_a_folder_without_a_journal_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds no journal\. Fix"):
        main([str(tmp_path)])
