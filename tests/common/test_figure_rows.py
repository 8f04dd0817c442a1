"""Rows of figures under the names of today, whatever version wrote them."""

import json
import re
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.figure_rows import RENAMED, read_rows
from common.metrics import METRICS


def test_rows_of_older_runs_have_the_names_of_today(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = {"step": 1, "time_s": 0.5, "columns": {"slots_used": "a cell"}}
    old |= {name: float(number) for number, name in enumerate(RENAMED)}
    path.write_text(json.dumps(old) + "\n\n" + json.dumps(old)[:20])
    (row,) = read_rows(path)
    assert row.keys() - {"step", "time_s", "columns"} == set(RENAMED.values()) <= METRICS.keys()
    assert row["broker/slots_used"] == 0.0 and row["columns"] == {"slots_used": "a cell"}
    assert not RENAMED.keys() & METRICS.keys()


def test_without_a_file_there_are_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("line", ["[1]", "\0\0\0", '{"step": 1'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}, line 2: .* Fix: remove it"):
        read_rows(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read: .* Fix: "):
        read_rows(path)
