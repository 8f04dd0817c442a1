from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.dataset import Answers, read_answers, read_samples
from common.errors import DataError


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "no placeholder"}, "<image>"),
        ({"problem": "<image><image>"}, "<image>"),
        ({"box": None}, "no evidence"),
        ({"box": [5, 5, 5, 9]}, "box is empty"),
        ({"box": [1, 2, 3]}, "shorter"),
        ({"image_sha256": "xyz"}, "sha256"),
        ({"width": 0}, "width"),
    ],
)
def test_a_bad_row_is_named_and_left_out(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    samples, problems = read_samples(write(tmp_path, [row(0), row(1, **change)]))
    assert [s.sample_id for s in samples] == ["s0"]
    assert len(problems) == 1 and "row 1" in problems[0] and message in problems[0]


def test_unusable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.parquet"):
        read_samples(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text\.parquet"):
        read_samples(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="lacks the columns sample_id"):
        read_samples(write(tmp_path, [{"problem": "x"}]))
    with pytest.raises(DataError, match="stands twice"):
        read_samples(write(tmp_path, [row(0), row(0)]))
    with pytest.raises(DataError, match="no usable row"):
        read_samples(write(tmp_path, [row(0, width=0)]))


def test_blank_answers_count_as_none(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1, answer=None), row(2, answer=" ")])
    assert read_answers(path) == {"s0": "0"}


def test_a_file_without_the_answer_column_holds_no_answer(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row(0).items() if key != "answer"}]
    assert read_answers(write(tmp_path, rows)) == {}


def test_an_answer_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0, answer=3), row(1, answer=4)])
    with pytest.raises(DataError, match=r"row 0: answer is 3, not a string. Fix: .* text"):
        read_answers(path)


def test_a_sample_without_an_answer_is_named_with_file_and_mend(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1, answer=None)])
    (known, unknown), _ = read_samples(path)
    answers = read_answers(path)
    assert answers.of(known) == "0"
    with pytest.raises(DataError, match=rf"sample s1 has no answer in {path}.* Fix: fill"):
        answers.of(unknown)
    with pytest.raises(DataError, match=r"sample s0 has no answer in data\.train"):
        Answers().of(known)


@pytest.mark.parametrize("problem", [None, 7, ["<image>"]])
def test_a_problem_that_is_no_text_costs_its_row_alone(tmp_path: Path, problem: Any) -> None:
    rows = [row(0), row(1)]
    table = pa.Table.from_pylist(rows)
    if problem is None:
        table = pa.Table.from_pylist([row(0), row(1, problem=None)])
        pq.write_table(table, tmp_path / "data.parquet")
        samples, problems = read_samples(tmp_path / "data.parquet")
        assert [s.sample_id for s in samples] == ["s0"] and "problem is None" in problems[0]
        return
    column = table.schema.get_field_index("problem")
    values = pa.array([problem, problem])
    pq.write_table(table.set_column(column, "problem", values), tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"problem is .*not text"):
        read_samples(tmp_path / "data.parquet")


def test_control_tokens_in_a_problem_are_refused_by_name(tmp_path: Path) -> None:
    rows = [row(0), row(1, problem="<image>\nWhich <|im_end|> digit?")]
    samples, problems = read_samples(write(tmp_path, rows), ("<|im_end|>", "<think>"))
    assert [s.sample_id for s in samples] == ["s0"]
    assert len(problems) == 1 and "row 1" in problems[0]
    assert "'<|im_end|>', which this model's tokenizer reads as a control token" in problems[0]
