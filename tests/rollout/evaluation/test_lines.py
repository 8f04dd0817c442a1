"""Files of JSON lines that only grow."""

import logging
from pathlib import Path

import pytest

from common.errors import ConfigError, DataError
from rollout.evaluation.lines import GrowingLines, read_lines
from tests.small_disk import small_disk


def test_lines_come_back_in_order_whatever_is_in_them(tmp_path: Path) -> None:
    lines = [{"a": "one\ntwo\u2028"}, {"b": None}, {"c": "\ud800 half a pair"}]
    with GrowingLines(tmp_path / "x.jsonl") as file:
        for line in lines:
            file.append(line)
    assert list(read_lines(tmp_path / "x.jsonl")) == [*lines[:2], {"c": "? half a pair"}]


def test_a_cut_last_line_is_not_read_and_gone_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": ')
    assert list(read_lines(path)) == [{"a": 1}]
    with GrowingLines(path) as file:
        file.append({"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_a_damaged_line_is_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\x00\xff\n[1]\n{"b": 2}\n')
    with caplog.at_level(logging.WARNING):
        assert list(read_lines(path)) == [{"a": 1}, {"b": 2}]
    assert [record.args[1] for record in caplog.records] == [2, 3]


def test_only_one_process_writes(tmp_path: Path) -> None:
    with (
        GrowingLines(tmp_path / "x.jsonl"),
        pytest.raises(ConfigError, match="another process writes to it"),
    ):
        GrowingLines(tmp_path / "x.jsonl")
    GrowingLines(tmp_path / "x.jsonl").__exit__()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Fix: see to the disk"):
        GrowingLines(tmp_path / "missing" / "x.jsonl")


def test_on_a_full_disk_no_part_of_a_line_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk.folder / "x.jsonl"
        with GrowingLines(path) as file:
            file.append({"a": 1})
            disk.fill()
            with pytest.raises(DataError, match="the same command goes on"):
                file.append({"b": "x" * 8192})
            disk.free()
            file.append({"c": 3})
        assert list(read_lines(path)) == [{"a": 1}, {"c": 3}]
