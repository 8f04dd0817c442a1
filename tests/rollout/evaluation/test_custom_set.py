"""A person's own file as a set: JSON Lines, Parquet, and what common.prepare writes."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.dataset_files import write_rows
from common.errors import ConfigError, DataError
from common.prepare.pictures import Looks, dataset_row
from common.prepare.source import SourceRow
from rollout.evaluation.figures import Scored, share
from rollout.evaluation.items import Item
from rollout.evaluation.sets import find_set
from tests.picture_files import scene
from tests.rollout.evaluation.set_files import picture


def items_of(path: Path) -> list[Item]:
    return list(find_set(f"custom:{path}").open().items)


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """A JSONL file, and 0.jpg beside it."""
    (folder / "0.jpg").write_bytes(picture(0))
    path = folder / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"question": "Which?", "picture": "0.jpg", "answer": "red"} | changes


def test_an_open_question_is_asked_as_it_stands(tmp_path):
    trained = {"problem": "<image>\nWho?", "image": "0.jpg", "answer": "me"}
    path = written(tmp_path, row(problem=None), trained)
    own = find_set(f"custom:{path}")
    first, second = items_of(path)
    assert (first.id, first.picture, first.crop, first.kind) == ("0", picture(0), None, "open")
    assert own.prompt(first, "paper") == "Which?" and own.prompt(second, "paper") == "\nWho?"
    assert own.score(first, "It is red.", "paper").outcome == "right"


@pytest.mark.parametrize("options", [["red", "blue"], {"A": "red", "B": "blue"}])
@pytest.mark.parametrize("answer", ["B", "(b)", "blue", "B. blue"])
def test_options_of_a_column_are_put_below_the_question(options, answer, tmp_path):
    (item,) = items_of(written(tmp_path, row(options=options, answer=answer)))
    assert (item.kind, item.answer) == ("choice", "B")
    assert item.options == (("A", "red"), ("B", "blue"))
    assert item.question == (
        "Which?\n(A) red\n(B) blue\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_options_in_the_question_are_found(tmp_path):
    asked = "Which?\n(A) red\n(B) blue"
    chosen, told = items_of(written(tmp_path, row(question=asked, answer="A"), row(question=asked)))
    assert (chosen.kind, chosen.question) == ("choice", asked)
    assert told.kind == "open"  # its answer is a text


def test_yes_and_no_are_told_from_texts(tmp_path):
    first, second = items_of(written(tmp_path, row(answer="Yes"), row(answer=3)))
    assert (first.kind, first.answer) == ("yes_no", "yes")
    assert (second.kind, second.answer) == ("open", "3")


def test_a_picture_may_be_base64(tmp_path):
    content = base64.b64encode(picture(7)).decode()
    (item,) = items_of(written(tmp_path, row(picture=content)))
    assert item.picture == picture(7)


def test_a_crop_is_taken_as_it_is_and_a_box_is_cut_and_enlarged(tmp_path):
    whole = scene(40, 30)
    whole.save(tmp_path / "whole.png")
    path = written(
        tmp_path,
        row(picture="whole.png", crop="0.jpg"),
        row(picture="whole.png", box=[10, 5, 20, 12]),
        row(picture="whole.png"),
    )
    ready, cut, none = items_of(path)
    assert ready.crop == picture(0) and none.crop is None
    expected = whole.crop((10, 5, 20, 12)).resize((20, 14), Image.Resampling.BICUBIC)
    assert Image.open(io.BytesIO(cut.crop)).tobytes() == expected.tobytes()


def test_parquet_holds_pictures_as_bytes_or_images(tmp_path):
    path = tmp_path / "own.parquet"
    rows = [
        {"id": "a", **row(picture={"bytes": picture(1), "path": None}), "level": "hard"},
        {"id": "b", **row(picture={"bytes": None, "path": "0.jpg"}), "level": "easy"},
    ]
    written(tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), path)
    first, second = items_of(path)
    assert (first.id, first.picture, first.fields) == ("a", picture(1), {"level": "hard"})
    assert second.picture == picture(0)


def test_what_prepare_writes_is_a_custom_set(tmp_path):
    (tmp_path / "whole.jpg").write_bytes(picture(3))
    (tmp_path / "pictures").mkdir()
    source = SourceRow("s-1", "<image>Which?", tmp_path / "whole.jpg", None, (0, 0, 8, 8), "red")
    write_rows([dataset_row(source, Looks(tmp_path, bakes=False))], tmp_path / "train.parquet")
    (item,) = items_of(tmp_path / "train.parquet")
    assert (item.id, item.question, item.answer, item.fields) == ("s-1", "Which?", "red", {})
    assert item.picture == picture(3) and item.crop is not None


def test_columns_with_few_values_are_counted_apart(tmp_path):
    path = written(tmp_path, *(row(level=level, note=f"n{n}") for n, level in enumerate("abab")))
    own = find_set(f"custom:{path}")
    scored = [Scored(item.answer, item.fields, own.score(item, "red")) for item in own.open().items]
    figures = own.figures(scored)
    assert figures["level = a"] == share(2, 2) and figures["accuracy"] == share(4, 4)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"answer": " "}, "answer = ' ' is empty"),
        ({"answer": None}, "answer = None is no text"),
        ({"question": None}, "question = None is no text"),
        ({"picture": None}, "picture = None is no picture"),
        ({"picture": "1.jpg"}, "picture = '1.jpg' cannot be read (No such file or directory)"),
        ({"picture": "../x.jpg"}, "picture = '../x.jpg' leads out of "),
        ({"picture": "/etc/x.jpg"}, "picture = '/etc/x.jpg' leads out of "),
        ({"options": ["blue", "green"]}, "answer = 'red' names none of the options"),
        ({"options": "red, blue"}, "options = 'red, blue' is no list of texts"),
        ({"options": {"first": "red"}}, "is no object of letters and texts"),
        ({"box": [0, 0, 100, 10]}, "box = [0, 0, 100, 10] reaches outside the picture"),
        ({"box": [0, 0, 0.5, 0.5]}, "box = [0, 0, 0.5, 0.5] shares of the picture's sides"),
    ],
)
def test_a_broken_row_is_named_with_file_field_value_and_fix(changes, told, tmp_path):
    path = written(tmp_path, row(), row(**changes))
    with pytest.raises(DataError) as error:
        items_of(path)
    message = str(error.value)
    assert f"{path} row 1: " in message and told in message and ". Fix: " in message


@pytest.mark.parametrize(
    "content, told",
    [
        ('{"question": 1}\n{', "line 2: "),
        ("[1]\n", "row 0: no object"),
    ],
)
def test_a_file_that_is_no_json_lines_is_named_with_its_line(content, told, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=told):
        items_of(path)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no \.jsonl or \.parquet file"):
        find_set(f"custom:{tmp_path}/own.csv")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for name in ("own.jsonl", "own.parquet"):
        with pytest.raises(DataError, match="No such file"):
            items_of(tmp_path / name)
