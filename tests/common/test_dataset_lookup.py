"""One row by its name, against the reader of all rows."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.dataset import read_samples
from common.dataset_lookup import find_row, find_sample
from common.errors import DataError
from tests.tiny_world import make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", 7)


def rewritten(path: Path, names: list, row_group_size: int = 3) -> None:
    table = pq.read_table(path).drop(["sample_id"]).slice(0, len(names))
    pq.write_table(table.append_column("sample_id", pa.array(names)), path, row_group_size)


def test_each_sample_is_found_as_the_reader_of_all_rows_has_it(dataset):
    rewritten(dataset, [f"s{number}" for number in range(7)])
    for sample in read_samples(dataset)[0]:
        assert find_sample(dataset, sample.sample_id) == sample
    assert find_sample(dataset, "s7") is None and find_row(dataset, "s7") is None
    row = find_row(dataset, "s4", ("answer", "no_such_column"))
    assert row is not None and row["answer"] == "4" and row["no_such_column"] is None


@pytest.mark.parametrize("names", [[17, 4, 5], [17.0, 4.0, 5.0]])
def test_numbers_are_names_as_everywhere(dataset, names):
    rewritten(dataset, names)
    samples = read_samples(dataset)[0]
    assert [find_sample(dataset, name) for name in ("17", "4", "5")] == samples
    assert find_sample(dataset, "17.0") is None


def test_of_rows_with_one_name_the_first_counts(dataset):
    rewritten(dataset, ["a", "b", "a"])
    found = find_sample(dataset, "a")
    assert found is not None and found.image.path == "images/0.png"


def test_a_file_that_was_replaced_is_read_anew(dataset):
    assert find_sample(dataset, "s1") is not None
    rewritten(dataset, ["x", "y"])
    os.utime(dataset, ns=(1, 1))
    assert find_sample(dataset, "s1") is None and find_sample(dataset, "y") is not None


def test_a_file_that_is_gone_or_none_is_named(dataset):
    with pytest.raises(DataError, match=r"gone\.parquet cannot be read: .*Fix: "):
        find_sample(dataset.with_name("gone.parquet"), "s1")
    dataset.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"samples\.parquet cannot be read: .*Fix: "):
        find_sample(dataset, "s1")


def test_a_row_of_no_use_says_why(dataset):
    table = pq.read_table(dataset)
    bad = table.drop(["problem"]).append_column("problem", pa.array(["no place"] * 7))
    pq.write_table(bad, dataset)
    with pytest.raises(DataError, match=r"sample s1: .*<image>"):
        find_sample(dataset, "s1")
