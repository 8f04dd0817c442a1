"""common.prepare custom: rows as people, `datasets` and verl have them become a dataset.

Holds common/prepare/custom_command.py, common/prepare/tables.py, common/prepare/telling.py.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.dataset import read_answers, read_samples
from common.errors import DataError
from common.images import ImageStore
from common.pictures import decode_picture
from common.prepare.__main__ import main
from common.prepare.columns import question_in
from common.prepare.conversion import converted
from common.prepare.custom import Wishes, custom_rows
from common.prepare.hint import HINT
from common.prepare.pictures import Looks
from common.types import Box
from tests.common.prepare.rows_files import SIZE, KillingRows, custom, jpeg, refusal, write_jsonl
from tests.picture_files import KINDS, picture_file

PIXELS = ("--box-units", "pixels", "--box-form", "xyxy")
ROW: dict[str, Any] = {"image": "a.jpg", "question": "Which?", "box": [10, 20, 60, 70]}
PLAIN = ("png", "png palette", "png 1 bit", "jpeg", "jpeg 4:4:4", "jpeg progressive", "jpeg grey",
         "jpeg profile", "webp", "bmp")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.jpg").write_bytes(jpeg(*SIZE))
    return tmp_path / "mine"


def one(folder: Path, row: dict[str, Any], *words: str) -> dict[str, Any]:
    """The dataset's row of a set of one."""
    (made,) = custom(write_jsonl(folder / "rows.jsonl", [row]), folder / "out", *words)
    return made


def parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=3)
    return path


# ---- what a row becomes --------------------------------------------------------------------------
def test_rows_of_jsonl_become_samples(folder: Path, tmp_path: Path) -> None:
    rows = [ROW | {"id": 7, "answer": "A"}, ROW | {"question": "On <image>: which?", "box": None,
            "crop": "a.jpg"}]  # fmt: skip
    custom(write_jsonl(folder / "rows.jsonl", rows), tmp_path / "out", *PIXELS)
    (first, second), bad = read_samples(tmp_path / "out/train.parquet")
    assert bad == []
    assert (first.sample_id, second.sample_id) == ("7", "row-000002")
    assert first.problem == "<image>\nWhich?" and second.problem == "On <image>: which?"
    assert first.box == Box(x1=10, y1=20, x2=60, y2=70) and first.crop is None
    images = ImageStore(tmp_path / "out")
    assert images.read_bytes(first.image) == (folder / "a.jpg").read_bytes()
    assert second.crop == first.image and second.box is None
    assert read_answers(tmp_path / "out/train.parquet") == {"7": "A"}


@pytest.mark.parametrize(
    "picture",
    [
        "a.jpg",
        ["a.jpg"],
        {"path": "a.jpg", "bytes": None},
        [{"path": "a.jpg"}],
        {"path": "elsewhere.jpg", "bytes": jpeg(*SIZE)},
        [{"bytes": jpeg(*SIZE)}],
        jpeg(*SIZE),
    ],
)
def test_a_picture_is_a_path_bytes_or_what_datasets_and_verl_have(
    folder: Path, tmp_path: Path, picture: Any
) -> None:
    source = parquet(folder / "rows.parquet", [{**ROW, "image": picture}])
    (made,) = custom(source, tmp_path / "out", *PIXELS)
    kept = (tmp_path / "out" / made["image"]).read_bytes()
    assert kept == jpeg(*SIZE) and made["image"].endswith(f"{made['image_sha256']}.jpg")


def test_rows_of_verl_have_a_chat_a_crop_and_an_answer(folder: Path, tmp_path: Path) -> None:
    """Rows as the published code writes them."""
    row = {
        "data_source": "zwz_rl_vqa_bbox_teacher",
        "prompt": [{"role": "user", "content": f"<image>\nWhich?\n\n{HINT}"}],
        "images": [{"path": str(folder / "a.jpg")}],
        "bbox_images": [{"path": str(folder / "a.jpg")}],
        "ability": "visual_question_answering",
        "reward_model": {"style": "none", "ground_truth": "B"},
        "extra_info": {"answer": "B", "question": "Which?"},
    }
    (made,) = custom(parquet(folder / "rows.parquet", [row]), tmp_path / "out")
    assert made["problem"] == f"<image>\nWhich?\n\n{HINT}" and made["answer"] == "B"
    assert made["crop"] == made["image"] and made["box"] is None
    kept = ("data_source", "ability", "reward_model", "extra_info")
    assert list(made)[-4:] == list(kept) and all(made[name] == row[name] for name in kept)


def test_a_chat_of_parts_is_a_question() -> None:
    parts = [{"type": "text", "text": "On "}, {"type": "image"}, {"type": "text", "text": "?"}]
    assert question_in([{"role": "user", "content": parts}], "prompt") == "On <image>?"


def test_other_columns_are_kept_after_ours_with_their_types(folder: Path, tmp_path: Path) -> None:
    rows = [
        ROW | {"n": 1, "x": 1, "yes": True, "text": "a", "mixed": 1, "tags": ["a"], "width": 9},
        ROW | {"n": 2, "x": 0.5, "yes": None, "text": None, "mixed": "b", "tags": {"c": 1}},
    ]
    source = write_jsonl(folder / "rows.jsonl", rows)
    first, second = custom(source, tmp_path / "out", *PIXELS)
    names = ["n", "x", "yes", "text", "mixed", "tags"]
    assert list(first)[-6:] == names and first["width"] == SIZE[0]
    assert [first[n] for n in names] == [1, 1.0, True, "a", "1", '["a"]']
    assert [second[n] for n in names] == [2, 0.5, None, None, "b", '{"c": 1}']
    types = [str(pq.read_schema(tmp_path / "out/train.parquet").field(n).type) for n in names]
    assert types == ["int64", "double", "bool", "string", "string", "string"]


def test_columns_of_parquet_keep_types_that_json_has_not(folder: Path, tmp_path: Path) -> None:
    schema = pa.schema(
        [("image", pa.string()), ("question", pa.string()), ("box", pa.list_(pa.float32(), 4)),
         ("when", pa.timestamp("us")), ("raw", pa.binary()), ("of", pa.struct([("a", pa.int8())]))]
    )  # fmt: skip
    row = ROW | {"when": 1, "raw": b"\0\xff", "of": {"a": 3}}
    source = parquet(folder / "rows.parquet", [row], schema)
    (made,) = custom(source, tmp_path / "out", *PIXELS)
    kept = pq.read_schema(tmp_path / "out/train.parquet")
    assert all(kept.field(name).type == schema.field(name).type for name in ("when", "raw", "of"))
    assert made["raw"] == b"\0\xff" and made["of"] == {"a": 3} and made["box"] == ROW["box"]


def test_columns_may_be_said(folder: Path, tmp_path: Path) -> None:
    row = {"file": "a.jpg", "ask": "Which?", "where": {"region": [10, 20, 60, 70]}, "image": "no"}
    words = [f"--column={ours}" for ours in ("picture=file", "question=ask", "box=where.region")]
    made = one(folder, row, *PIXELS, *words)
    assert made["box"] == [10, 20, 60, 70] and made["problem"] == "<image>\nWhich?"


def test_several_files_are_one_set(folder: Path, tmp_path: Path) -> None:
    parts = folder / "parts"
    parts.mkdir()
    for number in range(3):
        row = ROW | {"id": f"s{number}", "n": number}
        parquet(parts / f"{number}.parquet", [row] * (number + 1))
    made = custom(parts, tmp_path / "out", *PIXELS, "--images", str(folder))
    assert [row["sample_id"] for row in made] == ["s0", "s1", "s2"]
    lines = (tmp_path / "out/left_out.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"{parts}/1.parquet row 1", f"{parts}/2.parquet row 1", f"{parts}/2.parquet row 2",
    ]  # fmt: skip


def test_the_row_of_the_readme_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "street.jpg").write_bytes(jpeg(320, 240))
    row = {
        "image": "street.jpg",
        "question": "What does the sign say?",
        "box": [120, 40, 260, 110],
        "answer": "BAKERY",
    }
    made = one(tmp_path, row, "--images", str(tmp_path), *PIXELS)
    assert (made["box"], made["answer"]) == (row["box"], "BAKERY")
    assert made["problem"] == f"<image>\n{row['question']}"


# ---- boxes ---------------------------------------------------------------------------------------
def test_boxes_are_recognised_from_the_whole_set_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [[0.1 * (n % 9), 0.1, 0.1, 0.1 * (n % 8 + 1)] for n in range(30)]
    rows = [ROW | {"box": box} for box in boxes]
    made = custom(write_jsonl(folder / "rows.jsonl", rows), tmp_path / "out")
    assert "boxes: --box-units unit --box-form xywh" in capsys.readouterr().out.splitlines()
    assert [row["box"] for row in made] == [
        [10 * (n % 9), 8, 10 * (n % 9) + 10, 8 + 8 * (n % 8 + 1)] for n in range(30)
    ]


def test_boxes_that_may_mean_two_things_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(folder / "rows.jsonl", [ROW])
    words = ("custom", "--input", str(source), "--out", str(tmp_path / "out"))
    code, line = refusal(capsys, *words)
    assert code == 2 and "--box-units pixels" in line and "Fix: say which it is" in line
    assert not (tmp_path / "out").exists()


def test_boxes_refer_to_the_upright_picture(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(jpeg(100, 80, orientation=6))
    made = one(folder, ROW | {"box": [0.5, 0.5, 1, 1]}, "--box-units=unit", "--box-form=xyxy")
    assert (made["width"], made["height"]) == (80, 100) and made["box"] == [40, 50, 80, 100]


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_what_viewers_may_show_otherwise_is_baked_and_the_rest_stays_as_it_is(
    tmp_path: Path, kind: str
) -> None:
    content = picture_file(kind, *SIZE)
    (tmp_path / "a").write_bytes(content)
    made = one(tmp_path, ROW | {"image": "a"}, *PIXELS)
    kept = (tmp_path / "out" / made["image"]).read_bytes()
    assert (kept == content) == (kind in PLAIN)
    with Image.open(io.BytesIO(kept)) as stored:
        assert stored.size == (made["width"], made["height"]) == SIZE
        assert (stored.format, stored.mode) == ("PNG", "RGB") or kind in PLAIN
        assert getattr(stored, "n_frames", 1) == 1 and 0x0112 not in stored.getexif()
        plain = np.asarray(stored.convert("RGB"))
    assert np.array_equal(plain, np.asarray(decode_picture(content, kind)))


def test_a_red_box_is_drawn_round_the_evidence_and_the_crop_is_of_the_clean_picture(
    folder: Path,
) -> None:
    words = ("--red-box", "--line-width", "3", "--colour", "#00ff00", "--hint")
    made = one(folder, ROW, *PIXELS, *words)
    clean = np.asarray(decode_picture((folder / "a.jpg").read_bytes(), "a"))
    seen = np.asarray(Image.open(folder / "out" / made["image"]))
    assert (seen[20:70, 10:60] == clean[20:70, 10:60]).all()
    green = (seen == (0, 255, 0)).all(axis=2)
    assert green[17:20, 7:63].all() and green[70:73, 7:63].all() and green[17:73, 7:10].all()
    assert green[17:73, 60:63].all() and green.sum() >= 2 * 3 * (56 + 50)
    seen_crop = Image.open(folder / "out" / made["crop"])
    assert seen_crop.size == (made["crop_width"], made["crop_height"]) == (100, 100)
    cut = Image.fromarray(clean[20:70, 10:60]).resize((100, 100), Image.Resampling.BICUBIC)
    assert (np.asarray(seen_crop) == np.asarray(cut)).all()
    assert made["problem"] == f"<image>\nWhich?\n\n{HINT}" and made["box"] == ROW["box"]


def test_crops_are_written_as_training_would_cut_them(folder: Path) -> None:
    made = one(folder, ROW, *PIXELS, "--make-crops", "--crop-margin", "0.1", "--crop-scale", "1.5")
    assert (made["crop_width"], made["crop_height"]) == (90, 90)
    crop = np.asarray(Image.open(folder / "out" / made["crop"]))
    part = decode_picture((folder / "a.jpg").read_bytes(), "a").crop((5, 15, 65, 75))
    assert (crop == np.asarray(part.resize((90, 90), Image.Resampling.BICUBIC))).all()


def test_a_ready_crop_comes_before_one_that_is_made(folder: Path) -> None:
    made = one(folder, ROW | {"crop": "a.jpg"}, *PIXELS, "--make-crops")
    assert (made["crop_width"], made["crop_height"]) == SIZE


def test_pictures_that_are_made_may_be_jpeg(folder: Path) -> None:
    made = one(folder, ROW, *PIXELS, "--red-box", "--save-as", "jpeg")
    for field in ("image", "crop"):
        with Image.open(folder / "out" / made[field]) as picture:
            assert picture.format == "JPEG"


def test_a_row_without_a_box_has_none_drawn(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(folder / "rows.jsonl", [ROW | {"box": None, "crop": "a.jpg"}])
    words = ("custom", "--input", str(source), "--out", str(folder / "out"), *PIXELS, "--red-box")
    code, line = refusal(capsys, *words)
    assert code == 1 and "box = None: nothing there" in line and "leave --red-box out" in line


# ---- many rows, and what is refused --------------------------------------------------------------
def test_the_dataset_is_the_same_with_one_process_and_with_several(
    folder: Path, tmp_path: Path
) -> None:
    rows = [ROW | {"question": f"What is {n}?", "box": [0, 0, n + 1, 9]} for n in range(150)]
    source = write_jsonl(folder / "rows.jsonl", rows)
    found = custom_rows([source], folder, Wishes({}, "pixels", "xyxy"))
    alone, together = (list(converted(found, Looks(None), n)) for n in (1, 3))
    assert len(alone) == 150 and alone == together
    assert [result.place for result in alone] == [f"{source} line {n + 1}" for n in range(150)]
    assert not isinstance(alone[90].row, str) and alone[90].row["box"] == [0, 0, 91, 9]
    assert isinstance(alone[120].row, str)  # wider than the picture


def test_a_process_that_is_killed_ends_the_preparation_with_a_clear_line() -> None:
    with pytest.raises(DataError, match=r"was killed, by the kernel.*Fix: see to the memory"):
        list(converted(KillingRows(), Looks(None), 2))


@pytest.mark.parametrize(
    ("row", "words", "code", "part"),
    [
        ({"question": "Which?"}, (), 2, "no column is the picture by name"),
        ({"image": "a.jpg"}, (), 2, "Fix: say which, with --column question=NAME"),
        (ROW, ("--column", "box=there"), 2, "--column box=there: there is no such column"),
        (ROW, ("--column", "boxes=box"), 2, "--column boxes=box: none of ours"),
        (ROW, ("--images", "/nowhere"), 2, "--images /nowhere: no folder"),
        (ROW, ("--colour", "reddish"), 2, "--colour: unknown color"),
        (ROW, ("--line-width", "0"), 2, "--line-width 0"),
        (ROW, ("--crop-scale", "3"), 2, "no crops are made"),
        (ROW, ("--make-crops", "--crop-scale", "0"), 2, "--crop-scale 0: out of range"),
        (ROW | {"box": [0, 0, 1, 200]}, PIXELS, 1, "no row can be used. "),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    folder: Path, capsys: pytest.CaptureFixture[str], row: Any, words: Any, code: int, part: str
) -> None:
    source = write_jsonl(folder / "rows.jsonl", [row])
    found, line = refusal(
        capsys, "custom", "--input", str(source), "--out", str(folder / "out"), *words
    )
    assert found == code and part in line and "Fix: " in line
    assert not (folder / "out/train.parquet").exists()


@pytest.mark.parametrize("name", ["gone.jsonl", "rows.csv", "empty", "cut.parquet", "."])
def test_a_file_that_is_none_is_one_clear_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / "rows.csv").write_text("a,b\n")
    (folder / "empty").mkdir()
    parquet(folder / "cut.parquet", [ROW])
    (folder / "cut.parquet").write_bytes((folder / "cut.parquet").read_bytes()[:-100])
    write_jsonl(folder / "rows.jsonl", [ROW])
    words = ("custom", "--input", str(folder / name), "--out", str(folder / "out"))
    code, line = refusal(capsys, *words)
    assert code == 2 and line.startswith(f"cannot prepare: --input {folder}") and "Fix: " in line


def test_a_line_without_an_end_is_no_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.prepare.tables._MAX_LINE_BYTES", 200)
    rows = [json.dumps(ROW | {"question": "x" * 5000}), ROW, json.dumps(ROW | {"x": "y" * 900})]
    made = custom(write_jsonl(folder / "rows.jsonl", rows), folder / "out", *PIXELS)
    assert [row["sample_id"] for row in made] == ["row-000002"]
    lines = (folder / "out/left_out.txt").read_text().splitlines()
    assert [line.partition(": ")[0][-6:] for line in lines] == ["line 1", "line 3"]


def test_a_dataset_that_is_there_is_not_written_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one(folder, ROW, *PIXELS)
    code, line = refusal(
        capsys, "custom", "--input", str(folder / "rows.jsonl"), "--out", str(folder / "out")
    )
    assert code == 2 and "Fix: name another folder" in line


def test_what_was_prepared_can_be_prepared_again(folder: Path, tmp_path: Path) -> None:
    made = one(folder, ROW | {"id": "a", "answer": "B", "mine": 3}, *PIXELS)
    source = folder / "out/train.parquet"
    (again,) = custom(source, tmp_path / "again", *PIXELS)
    assert again == made


def test_the_help_of_each_form_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for form, option in (("custom", "--box-units"), ("vision-opd-6k", "--picture")):
        with pytest.raises(SystemExit) as end:
            main([form, "--help"])
        assert end.value.code == 0 and option in capsys.readouterr().out
