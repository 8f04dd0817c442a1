"""Holds common/bad_rows.py, common/dataset_columns.py, common/dataset_paths.py,
common/parquet_rows.py.
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.dataset import Answers, read_answers, read_columns, read_samples
from common.errors import DataError
from common.types import Box


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": f"s{number}",
        "problem": "<image>\nWhich digit?",
        "image": f"{number}.png",
        "image_sha256": "a" * 64,
        "width": 100,
        "height": 50,
        "box": [1, 2, 3, 4],
        "crop": None,
        "answer": str(number),
        **changes,
    }


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    return folder / "data.parquet"


def test_reads_rows_in_order_without_their_answers(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1)])
    samples, problems = read_samples(path)
    assert [s.sample_id for s in samples] == ["s0", "s1"] and problems == []
    assert "answer" not in type(samples[0]).model_fields
    assert read_answers(path) == {"s0": "0", "s1": "1"}


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"sample_id": None}, "sample_id", "None: nothing there. Fix: fill it"),
        ({"sample_id": ""}, "sample_id", "a name of 0 characters"),
        ({"sample_id": "x" * 201}, "sample_id", "a name of 201 characters"),
        ({"sample_id": "a\nb"}, "sample_id", "control character"),
        ({"sample_id": "s0"}, "sample_id", "'s0': row 0 has it too. Fix: give each"),
        ({"problem": None}, "problem", "None: nothing there"),
        ({"problem": "no placeholder"}, "problem", "'no placeholder': <image> stands in it 0"),
        ({"problem": "<image><image>"}, "problem", "stands in it 2 times"),
        ({"problem": "<image>" + "x" * 10**6}, "problem", "1000007 characters"),
        ({"image": None}, "image", "nothing there"),
        ({"image": ""}, "image", "'': no path"),
        ({"image": "a\0.png"}, "image", r"'a\x00.png': holds a control character"),
        ({"image": "../a.png"}, "image", "'../a.png': leads out of the dataset's folder"),
        ({"image": "b/../../a.png"}, "image", "leads out"),
        ({"image": "/etc/a.png"}, "image", "leads out"),
        ({"image_sha256": "xyz"}, "image_sha256", "'xyz': no SHA-256. Fix: write"),
        ({"image_sha256": "A" * 64}, "image_sha256", "no SHA-256"),
        ({"width": None}, "width", "nothing there"),
        ({"width": 0}, "width", "0: no number of pixels. Fix: give the size"),
        ({"height": -5}, "height", "-5: no number"),
        ({"height": 2**31 - 1}, "height", "2147483647: no number"),
        ({"box": []}, "box", "[]: not four numbers"),
        ({"box": [1, 2, 3]}, "box", "[1, 2, 3]: not four numbers"),
        ({"box": [1, 2, 3, 4, 5]}, "box", "not four numbers"),
        ({"box": [1, 2, None, 4]}, "box", "not four numbers"),
        ({"box": [5, 5, 5, 9]}, "box", "[5, 5, 5, 9]: no area"),
        ({"box": [9, 5, 5, 9]}, "box", "no area"),
        ({"box": [-1, 0, 5, 9]}, "box", "reaches outside the picture of 100 x 50 pixels"),
        ({"box": [0, 0, 101, 9]}, "box", "reaches outside"),
        ({"box": [0, 0, 9, 51]}, "box", "reaches outside"),
        ({"crop": ""}, "crop", "no path. Fix: name a file, or leave the cell empty"),
        ({"crop": "c.png"}, "crop_sha256", "nothing there"),
    ],
)
def test_a_bad_row_is_named_and_left_out(
    tmp_path: Path, change: dict[str, Any], field: str, words: str
) -> None:
    samples, (bad,) = read_samples(write(tmp_path, [row(0), row(1, **change)]))
    assert [s.sample_id for s in samples] == ["s0"]
    assert (bad.row, bad.field) == (1, field)
    assert words in bad.reason and ". Fix: " in bad.reason and "\n" not in str(bad)
    assert len(bad.reason) < 500


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0.1, 0.2, 0.5, 1.0], "shares of the picture's sides (0 to 1), it seems"),
        ([1.0, 2.5, 3.0, 4.0], "not whole numbers. Fix: .* round x1, y1 down, x2, y2 up"),
        ([1.0, 2.0, 3.0, math.nan], "not four numbers"),
        ([1.0, 2.0, 3.0, math.inf], "not four numbers"),
    ],
)
def test_a_box_of_fractions_is_named(tmp_path: Path, box: list[float], words: str) -> None:
    rows = [row(0, box=[1.0, 2.0, 3.0, 4.0]), row(1, box=box)]
    (sample,), (bad,) = read_samples(write(tmp_path, rows))
    assert sample.box == Box(x1=1, y1=2, x2=3, y2=4)
    assert (bad.row, bad.sample_id, bad.field) == (1, "s1", "box")
    assert re.search(words.replace("(0 to 1)", r"\(0 to 1\)"), bad.reason)


def test_floats_that_are_whole_are_numbers_and_whole_numbers_are_names(tmp_path: Path) -> None:
    """A column becomes floats where a cell is empty."""
    crop = {"crop": "c.png", "crop_sha256": DIGEST, "crop_width": 8.0, "crop_height": 9.0}
    rows = [
        row(0, sample_id=17.0, width=100.0, height=50.0, **crop),
        row(1, sample_id=18.0, width=math.nan, height=50.0),
        row(2, sample_id=18.5, width=100.0, height=50.0),
    ]
    (sample,), bad = read_samples(write(tmp_path, rows))
    assert sample.sample_id == "17" and sample.image.width == 100
    assert sample.crop is not None and (sample.crop.width, sample.crop.height) == (8, 9)
    assert [(b.row, b.field) for b in bad] == [(1, "width"), (2, "sample_id")]
    assert type(sample.image.width) is int
    (sample,), _ = read_samples(write(tmp_path, [row(0, sample_id=2**40)]))
    assert sample.sample_id == str(2**40)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_all_of_arrows_kinds_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.Table.from_pylist([row(0), row(1)])
    for name in ("sample_id", "problem", "image", "image_sha256"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(kind))
    pq.write_table(table, tmp_path / "data.parquet")
    samples, bad = read_samples(tmp_path / "data.parquet")
    assert [s.sample_id for s in samples] == ["s0", "s1"] and bad == []


def test_a_text_that_is_no_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0), row(1)])
    texts = pa.array([b"<image>good", b"<image>\xff\xfe"], pa.binary())
    place = table.schema.get_field_index("problem")
    column = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    pq.write_table(table.set_column(place, "problem", column), tmp_path / "data.parquet")
    (sample,), (bad,) = read_samples(tmp_path / "data.parquet")
    assert sample.problem == "<image>good"
    assert (bad.row, bad.field) == (1, "problem") and "unreadable ('utf-8'" in bad.value


def test_a_crop_without_its_size_is_named(tmp_path: Path) -> None:
    crop = {"crop": "c.png", "crop_sha256": DIGEST}
    rows = [row(0, **crop, crop_width=8, crop_height=9), row(1, **crop, crop_width=8)]
    (sample,), (bad,) = read_samples(write(tmp_path, rows))
    assert sample.sample_id == "s0"
    assert (bad.field, bad.value, bad.problem) == ("crop_height", "None", "nothing there")


def test_only_the_columns_in_use_are_read(tmp_path: Path) -> None:
    """Others may be of any type, Arrow's unreadable ones too, and their pages may be damaged."""
    table = pa.Table.from_pylist([row(0)])
    table = table.append_column("extra", pa.array([b"MARK" * 5000], pa.binary()))
    path = tmp_path / "data.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    begin = content.index(b"MARK" * 10) - 60
    content[begin : begin + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        pq.read_table(path)
    assert len(read_samples(path)[0]) == 1


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("problem", pa.array([7, 7]), "column problem is of type int64, not text. Fix: write"),
        ("image", pa.array([{"bytes": b"x", "path": "a"}] * 2), "image is of type struct<.*file"),
        ("width", pa.array(["9", "9"]), "column width is of type string, not whole numbers"),
        ("width", pa.array([True, True]), "column width is of type bool"),
        ("box", pa.array([{"x1": 1}] * 2), r"box is of type struct<.*Fix: write \[x1, y1, x2, y2"),
        ("box", pa.array([["1"], ["2"]]), "box is of type list<.*not a list of numbers"),
        ("sample_id", pa.array([[1], [2]]), "sample_id is of type list<.*not text or whole"),
    ],
)
def test_a_column_of_a_wrong_type_is_named(
    tmp_path: Path, column: str, values: pa.Array, words: str
) -> None:
    table = pa.Table.from_pylist([row(0), row(1)])
    table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match=words):
        read_samples(tmp_path / "data.parquet")


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0)])
    table = table.append_column("problem", pa.array(["<image>other"]))
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"the column problem twice\. Fix: rename"):
        read_samples(tmp_path / "data.parquet")


def test_no_pipe_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.parquet")
    with pytest.raises(DataError, match="there is no such file"):
        read_samples(tmp_path / "data.parquet")


def test_of_rows_with_one_name_the_first_has_it_even_if_it_is_bad(tmp_path: Path) -> None:
    rows = [row(0, width=0, answer="first"), row(1), row(0, answer="second")]
    (sample,), (first, second) = read_samples(write(tmp_path, rows))
    assert sample.sample_id == "s1" and (first.field, second.field) == ("width", "sample_id")
    assert read_answers(tmp_path / "data.parquet")["s0"] == "first"


def test_unusable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.parquet"):
        read_samples(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text\.parquet"):
        read_samples(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="lacks the columns sample_id"):
        read_samples(write(tmp_path, [{"problem": "x"}]))
    with pytest.raises(DataError, match="no usable row"):
        read_samples(write(tmp_path, [row(0, width=0)]))


def test_blank_answers_count_as_none(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1, answer=None), row(2, answer=" ")])
    assert read_answers(path) == {"s0": "0"}


def test_a_file_without_the_answer_column_holds_no_answer(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row(0).items() if key != "answer"}]
    assert read_answers(write(tmp_path, rows)) == {}


def test_answers_may_be_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0, answer=3), row(1, answer=None)])
    assert read_answers(path) == {"s0": "3"}


def test_answers_of_another_type_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0, answer=3.5), row(1, answer=4.0)])
    with pytest.raises(DataError, match=r"answer is of type double, not text .* Fix: .* text"):
        read_answers(path)


def test_columns_that_only_people_use_are_read_by_name(tmp_path: Path) -> None:
    rows = [row(0, source="web", shard=3), row(1, source=None, shard=4), row(0, source="late")]
    path = write(tmp_path, rows)
    found = read_columns(path, ("source", "shard"))
    assert found == {"source": {"s0": "web"}, "shard": {"s0": "3", "s1": "4"}}
    assert read_columns(path, ()) == {}
    with pytest.raises(DataError, match=r"lacks the columns topic; it has .*source.* Fix: add"):
        read_columns(path, ("topic",))
    with pytest.raises(DataError, match=r"box is of type list.*, not text or whole numbers"):
        read_columns(path, ("box",))


def test_a_sample_without_an_answer_is_named_with_file_and_fix(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1, answer=None)])
    (known, unknown), _ = read_samples(path)
    answers = read_answers(path)
    assert answers.of(known) == "0"
    with pytest.raises(DataError, match=rf"sample s1 has no answer in {path}.* Fix: fill"):
        answers.of(unknown)
    with pytest.raises(DataError, match=r"sample s0 has no answer in data\.train"):
        Answers().of(known)


def test_control_tokens_in_a_problem_are_refused_by_name(tmp_path: Path) -> None:
    rows = [row(0), row(1, problem="<image>\nWhich <|im_end|> digit?")]
    samples, (bad,) = read_samples(write(tmp_path, rows), ("<|im_end|>", "<think>"))
    assert [s.sample_id for s in samples] == ["s0"]
    assert (bad.row, bad.sample_id, bad.field) == (1, "s1", "problem")
    assert "'<|im_end|>', which this model's tokenizer reads as a control token" in bad.problem
