"""common.prepare: rows as Vision-OPD-6K is published become a dataset that the readers take.

Holds common/prepare/preparation.py.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.bad_rows import BadField
from common.dataset import read_answers, read_samples
from common.errors import ConfigError
from common.images import ImageStore
from common.prepare.__main__ import main
from common.prepare.pictures import Looks, Picture, dataset_row
from common.prepare.published_command import prepare_published
from common.prepare.published_form import source_row
from common.prepare.source import SourceRow
from common.types import Box

FORM = "vision-opd-6k"
PROBLEM = "<image>\nWhich?\nA. one\nB. two\n\nLook only inside the red box."
ROW: dict[str, Any] = {
    "images": ["images/0.jpg"],
    "teacher_images": ["teacher_images/0.jpg"],
    "original_images": ["original_images/0.jpg"],
    "bbox": [10, 20, 40, 50],
    "problem": PROBLEM,
    "answer": "B",
    "extra_info": {"question": "Which?"},
}


def jpeg(width: int, height: int, orientation: int = 1, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", exif=exif, **options)
    return content.getvalue()


def published(folder: Path, *rows: dict[str, Any] | str) -> Path:
    for name in ("images", "teacher_images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "images/0.jpg").write_bytes(jpeg(100, 80))
    (folder / "teacher_images/0.jpg").write_bytes(jpeg(60, 61))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def prepare(folder: Path, out: Path, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the dataset that was made, and the lines about those that were left out."""
    prepared = prepare_published(folder, out, **options)
    rows = pq.read_table(out / "train.parquet").to_pylist()
    left_out = (out / "left_out.txt").read_text().splitlines()
    assert (len(rows), len(left_out)) == (prepared.num_rows, prepared.num_left_out)
    return rows, left_out


def add_picture(path: Path, out: Path) -> Picture:
    """A file as it is, put into a dataset folder."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    source = SourceRow("a", PROBLEM, path, None, None, None, ("images", "crop", "box"))
    made = dataset_row(source, Looks(out, bakes=False))
    return Picture(made["image"], made["image_sha256"], made["width"], made["height"])


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **changes}


# ---- one line ------------------------------------------------------------------------------------
def test_a_published_line_means_full_image_ready_crop_box_and_question() -> None:
    source = source_row(json.dumps(ROW), 7, Path("/data"))
    assert source.sample_id == "line-000007"
    assert source.image == Path("/data/images/0.jpg")
    assert source.crop == Path("/data/teacher_images/0.jpg")
    assert source.box == (10, 20, 40, 50)
    assert source.problem == PROBLEM  # with its hint
    assert source.answer == "B"


@pytest.mark.parametrize(("field", "value"), [("id", "a7"), ("sample_id", 12), ("id", "é")])
def test_a_line_with_a_name_keeps_it(field: str, value: object) -> None:
    assert source_row(json.dumps(row(**{field: value})), 1, Path()).sample_id == str(value)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10.0, 20.0, 40.0, 50.0], (10, 20, 40, 50)),
        ([10.4, 20.6, 39.2, 49.9], (10, 20, 40, 50)),
        (None, None),
    ],
)
def test_a_box_is_whole_pixels_and_never_smaller_than_it_was(box: Any, expected: Any) -> None:
    assert source_row(json.dumps(row(bbox=box)), 1, Path()).box == expected


@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=4).filter(lambda box: max(box) > 1))
def test_a_rounded_box_holds_the_region_and_at_most_a_pixel_more(box: list[float]) -> None:
    found = source_row(json.dumps(row(bbox=box)), 1, Path()).box
    assert found is not None
    for whole, given_, is_low in zip(found, box, (True, True, False, False), strict=True):
        more = given_ - whole if is_low else whole - given_
        assert 0 <= more <= 1  # 1: a difference of floats, rounded


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"images": None}, "images = None"),
        ({"images": []}, "images = []"),
        ({"images": "images/0.jpg"}, "not a list of one path"),
        ({"images": ["a", "b"]}, "not a list of one path"),
        ({"images": ["/etc/passwd"]}, "leads out of the folder"),
        ({"teacher_images": ["../0.jpg"]}, "teacher_images = ['../0.jpg']: it leads out"),
        ({"teacher_images": None}, "teacher_images = None"),
        ({"bbox": [1, 2, 3]}, "bbox = [1, 2, 3]: not four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "not four numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "not four numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "not four numbers"),
        ({"bbox": [True, 2, 3, 4]}, "not four numbers"),
        ({"bbox": [0.1, 0.2, 0.8, 1.0]}, "shares of the picture's sides"),
        ({"problem": None}, "problem = None: not a text"),
        ({"problem": "Which?"}, "stands in it 0 times"),
        ({"problem": "<image><image>"}, "stands in it 2 times"),
        ({"answer": 3}, "answer = 3: not a text"),
        ({"id": ""}, "id = '': not a name"),
        ({"id": ["a"]}, "not a name"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_the_fix(change: dict[str, Any], part: str) -> None:
    with pytest.raises(BadField) as error:
        source_row(json.dumps(row(**change)), 1, Path("/data"))
    assert part in str(error.value) and ". Fix: " in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"x"'])
def test_a_line_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(BadField, match="JSON"):
        source_row(text, 1, Path())


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("orientation", "size"), [(1, (100, 80)), (3, (100, 80)), (6, (80, 100))])
def test_the_size_of_a_picture_is_that_of_the_upright_one(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    (tmp_path / "x.JPG").write_bytes(jpeg(100, 80, orientation))
    picture = add_picture(tmp_path / "x.JPG", tmp_path / "out")
    assert (picture.width, picture.height) == size
    assert picture.path == f"pictures/{picture.sha256}.jpg"


@pytest.mark.parametrize("content", [b"", b"text", jpeg(100, 80)[:-500], jpeg(100, 80)[:30]])
def test_what_is_no_whole_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadField, match="cannot be decoded") as error:
        add_picture(tmp_path / "x.jpg", tmp_path / "out")
    assert str(error.value).startswith("images = ") and str(error.value).count("Fix: ") == 1
    assert not any((tmp_path / "out/pictures").iterdir())


@pytest.mark.parametrize(
    "box", [(0, 0, 101, 80), (0, 0, 100, 81), (-1, 0, 5, 5), (5, 5, 5, 9), (9, 5, 5, 9)]
)
def test_a_box_outside_the_picture_is_refused(tmp_path: Path, box: tuple[int, ...]) -> None:
    folder = published(tmp_path / "from")
    source = source_row(json.dumps(row(bbox=list(box))), 1, folder)
    with pytest.raises(BadField, match="100 x 80 pixels") as error:
        dataset_row(source, Looks(None))
    assert str(error.value).startswith("bbox = ")


# ---- the whole -----------------------------------------------------------------------------------
def test_the_dataset_is_what_the_readers_take(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", ROW, row(id="second", answer=None))
    rows, left_out = prepare(folder, tmp_path / "out")
    assert (len(rows), left_out) == (2, [])
    path = tmp_path / "out" / "train.parquet"
    samples, problems = read_samples(path)
    assert problems == [] and [s.sample_id for s in samples] == ["line-000001", "second"]
    first = samples[0]
    assert first.problem == PROBLEM and first.box == Box(x1=10, y1=20, x2=40, y2=50)
    images = ImageStore(path.parent)
    assert images.read_bytes(first.image) == (folder / "images/0.jpg").read_bytes()
    assert images.open(first.image).size == (100, 80)
    assert first.crop is not None and images.open(first.crop).size == (60, 61)
    assert read_answers(path) == {"line-000001": "B"}


def test_the_box_of_a_turned_picture_refers_to_the_upright_one(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", row(bbox=[0, 0, 80, 100]), row(bbox=[0, 0, 100, 80]))
    (folder / "images/0.jpg").write_bytes(jpeg(100, 80, orientation=6))
    rows, left_out = prepare(folder, tmp_path / "out")
    assert [(r["width"], r["height"]) for r in rows] == [(80, 100)]
    assert len(left_out) == 1 and "80 x 100 pixels" in left_out[0]


def test_bad_rows_are_named_by_file_and_line_and_the_others_go_on(tmp_path: Path) -> None:
    bad = ["{", row(images=["images/1.jpg"]), row(problem=None), row(teacher_images=["cut.jpg"])]
    folder = published(tmp_path / "from", bad[0], ROW, "", *bad[1:], row(id="line-000002"))
    (folder / "cut.jpg").write_bytes(jpeg(60, 61)[:-400])
    rows, left_out = prepare(folder, tmp_path / "out")
    assert [r["sample_id"] for r in rows] == ["line-000002"]
    where = [line.partition(": ")[0] for line in left_out]
    assert where == [f"{folder}/train.jsonl line {n}" for n in (1, 4, 5, 6, 7)]
    for line, part in zip(
        left_out,
        ("not JSON", "images = ", "problem = None", "teacher_images = ", "line 2 has it too"),
        strict=True,
    ):
        assert part in line and ". Fix: " in line


def test_what_no_run_would_take_is_left_out(tmp_path: Path) -> None:
    """By the checks that a run makes of every dataset."""
    folder = published(tmp_path / "from", row(id="a\nb"), row(teacher_images=["thin.jpg"]), ROW)
    (folder / "thin.jpg").write_bytes(jpeg(1000, 4))
    rows, left_out = prepare(folder, tmp_path / "out")
    assert [r["sample_id"] for r in rows] == ["line-000003"]
    named, thin = left_out
    assert "sample_id = 'a\\nb': holds a control character. Fix: take it out" in named
    assert "one side more than 200 times the other. Fix: cut it" in thin
    samples, bad = read_samples(tmp_path / "out" / "train.parquet")
    assert len(samples) == 1 and bad == []


def test_no_good_row_is_an_error_and_leaves_no_parquet_file(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", row(problem=None))
    with pytest.raises(SystemExit) as end:
        main([FORM, "--from", str(folder), "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    assert not (tmp_path / "out/train.parquet").exists()
    assert "problem = None" in (tmp_path / "out/left_out.txt").read_text()


def test_a_dataset_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", ROW)
    prepare(folder, tmp_path / "out")
    before = (tmp_path / "out/train.parquet").read_bytes()
    with pytest.raises(ConfigError, match="Fix: name another folder"):
        prepare(folder, tmp_path / "out")
    assert (tmp_path / "out/train.parquet").read_bytes() == before


def test_a_source_that_is_not_there_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([FORM, "--from", str(tmp_path), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "Fix: name the folder with train.jsonl" in capsys.readouterr().err


def test_the_dataset_may_be_made_where_the_source_is(tmp_path: Path) -> None:
    folder = published(tmp_path, ROW)
    rows, _ = prepare(folder, folder)
    assert len(rows) == 1
    (sample,), _ = read_samples(folder / "train.parquet")
    assert ImageStore(folder).open(sample.image).size == (100, 80)


def test_pictures_that_links_lead_to_are_put_into_the_dataset(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", ROW)
    store = tmp_path / "store"
    (folder / "images/0.jpg").rename(store)
    (folder / "images/0.jpg").symlink_to(store)  # as the hub's cache has it
    prepare(folder, tmp_path / "out")
    (sample,), _ = read_samples(tmp_path / "out/train.parquet")
    assert ImageStore(tmp_path / "out").open(sample.image).size == (100, 80)


def test_the_columns_are_there_although_a_row_lacks_their_values(tmp_path: Path) -> None:
    prepare(published(tmp_path / "from", row(bbox=None, answer=None)), tmp_path / "out")
    table = pq.read_table(tmp_path / "out/train.parquet")
    assert table["box"].to_pylist() == [None] and str(table["answer"].type) == "string"


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    folder = published(tmp_path / "from", ROW)
    code = (
        "import sys, common.prepare.__main__ as p;"
        f"p.main(['{FORM}', '--from', '{folder}', '--out', '{tmp_path / 'out'}']);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
