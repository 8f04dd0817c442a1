"""Two hundred rows of which many are broken, each in its own way: every one of those is named."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.dataset import read_samples
from common.images import ImageStore
from common.prepare.__main__ import main
from tests.common.prepare.rows_files import SIZE, custom, jpeg, write_jsonl

PIXELS = ("--box-units", "pixels", "--box-form", "xyxy")
NUM_ROWS = 200
# What a row has instead, and what the line about it must hold: field = value: problem.
BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": ('{"image": ', "line = b'{\"image\": \\n'"),
    "a list": ("[1, 2]", "line = [1, 2]: not a JSON object"),
    "no UTF-8": (b'{"image": "good.jpg", "question": "\xff"}', "line = b'{\"image\""),
    "no picture": ({"image": None}, "image = None: nothing there"),
    "an empty path": ({"image": ""}, "image = '': nothing there"),
    "a number for a picture": ({"image": 7}, "image = 7: no picture"),
    "two pictures": ({"image": ["good.jpg", "good.jpg"]}, "image = ['good.jpg', 'good.jpg']: 2"),
    "a missing picture": ({"image": "gone.jpg"}, "gone.jpg': there is no such file"),
    "a path that leads out": ({"image": "../good.jpg"}, "image = '../good.jpg': leads out"),
    "an absolute path": ({"image": "/etc/hostname"}, "image = '/etc/hostname': leads out"),
    "NUL in a path": ({"image": "a\0b"}, "image = 'a\\x00b': leads out"),
    "a folder": ({"image": "folder"}, "folder': no file, but a folder"),
    "a pipe": ({"image": "pipe"}, "pipe': no file, but a folder or device"),
    "an empty file": ({"image": "empty.jpg"}, "empty.jpg': image empty.jpg cannot be decoded"),
    "text for a picture": ({"image": "text.jpg"}, "text.jpg': image text.jpg cannot be decoded"),
    "a cut picture": ({"image": "cut.jpg"}, "cut.jpg': image cut.jpg cannot be decoded"),
    "floats for pixels": ({"image": "float.tif"}, "float.tif': image float.tif: its pixels are"),
    "a thread of a picture": ({"image": "thin.png", "box": None, "crop": "good.jpg"}, "200 times"),
    "no question": ({"question": None}, "question = None: no question"),
    "a blank question": ({"question": " \n"}, "question = ' \\n': no question"),
    "a number for a question": ({"question": 3}, "question = 3: no question"),
    "two places": ({"question": "<image> <image>"}, "<image> stands in it 2 times"),
    "half a character": ({"question": "\ud800?"}, "problem = '<image>\\n\\ud800?': holds half"),
    "a chat of two turns": (
        {"question": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]},
        "a chat of 2 turns",
    ),
    "a box of three": ({"box": [1, 2, 3]}, "box = [1, 2, 3]: not four numbers"),
    "a box of words": ({"box": ["a", 2, 3, 4]}, "box = ['a', 2, 3, 4]: not four numbers"),
    "a box that is no number": ({"box": [float("nan"), 2, 3, 4]}, "box = [nan, 2, 3, 4]: not"),
    "a box beyond all floats": ({"box": [10**400, 2, 3, 4]}, "box = [10000"),
    "a box outside": ({"box": [10, 10, 101, 50]}, "box = [10.0, 10.0, 101.0, 50.0]: no rect"),
    "a box inside out": ({"box": [40, 10, 20, 50]}, "box = [40.0, 10.0, 20.0, 50.0]: no rect"),
    "a box of shares": ({"box": [0.1, 0.1, 0.5, 0.5]}, "box = [0.1, 0.1, 0.5, 0.5]: shares"),
    "a broken crop": ({"crop": "cut.jpg"}, "crop = '"),
    "a missing crop": ({"crop": "gone.jpg"}, "gone.jpg': there is no such file"),
    "an answer that is a list": ({"answer": ["a"]}, "answer = ['a']: neither"),
    "a name that is a list": ({"id": ["a"]}, "id = ['a']: not a name"),
    "a name twice": ({"id": "row 0"}, "id = 'row 0': "),
    "a name of two lines": ({"id": "a\nb"}, "sample_id = 'a\\nb': holds a control character"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "folder").mkdir(parents=True)
    good = jpeg(*SIZE)
    for name, content in (
        ("good.jpg", good), ("empty.jpg", b""), ("text.jpg", b"text"), ("cut.jpg", good[:-900]),
    ):  # fmt: skip
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "float.tif")
    thin = io.BytesIO()
    Image.new("RGB", (402, 2)).save(thin, "PNG")
    (folder / "thin.png").write_bytes(thin.getvalue())
    write_jsonl(folder / "rows.jsonl", _rows())
    return folder


def _rows() -> list[Any]:
    """The broken ones stand among the good ones, from the third on."""
    broken = iter(BROKEN.values())
    rows: list[Any] = []
    for number in range(NUM_ROWS):
        row = {
            "id": f"row {number}", "image": "good.jpg", "question": f"What is {number}?",
            "box": [10, 20, 60, 70], "answer": str(number),
        }  # fmt: skip
        change, _ = next(broken, (None, "")) if number % 5 == 2 else (None, "")
        rows.append(change if isinstance(change, str | bytes) else row | (change or {}))
    return rows


def _place(number: int) -> int:
    """Line of the n-th broken row."""
    return 5 * number + 3


def test_there_are_thirty_kinds_and_all_are_in_the_file() -> None:
    assert len(BROKEN) >= 30 and _place(len(BROKEN) - 1) <= NUM_ROWS


def test_every_broken_row_is_named_and_the_good_ones_are_prepared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = custom(folder / "rows.jsonl", tmp_path / "out", *PIXELS)
    lines = (tmp_path / "out/left_out.txt").read_text().splitlines()
    assert len(lines) == len(BROKEN)
    for number, (line, (kind, (_, part))) in enumerate(zip(lines, BROKEN.items(), strict=True)):
        assert line.startswith(f"{folder}/rows.jsonl line {_place(number)}: "), kind
        assert part in line and line.count(". Fix: ") == 1, (kind, line)
    assert len(rows) == NUM_ROWS - len(BROKEN)
    samples, bad = read_samples(tmp_path / "out/train.parquet")
    assert bad == [] and len(samples) == len(rows)
    assert ImageStore(tmp_path / "out").open(samples[-1].image).size == SIZE
    said = capsys.readouterr()
    shown = [line for line in said.err.splitlines() if line.startswith("left out: ")]
    assert shown == [f"left out: {line}" for line in lines[:20]]
    assert f"and {len(BROKEN) - 20} more, see {tmp_path}/out/left_out.txt" in said.err
    assert said.out.splitlines()[-1].endswith(f"{len(rows)} rows, {len(BROKEN)} left out")


def test_a_check_lists_them_all_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    main(["custom", "--input", str(folder / "rows.jsonl"), "--check", *PIXELS])
    said = capsys.readouterr()
    assert said.err.count("left out: ") == len(BROKEN)
    good = NUM_ROWS - len(BROKEN)
    assert said.out.splitlines()[-1] == f"checked: {good} rows are good, {len(BROKEN)} are not"
    assert sorted(tmp_path.rglob("*")) == before
