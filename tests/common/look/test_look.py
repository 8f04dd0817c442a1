"""common.look: the sheet of a dataset shows its rows and says what is wrong with them.

Holds common/dataset_files.py, common/command_line.py.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config import PromptSection
from common.dataset import Numbered, parsed_rows, read_samples
from common.dataset_files import Row, write_rows
from common.errors import ConfigError
from common.images import ImageStore
from common.look import main
from common.look.command import look
from common.look.remarks import remarks_of
from common.look.sheet import sheet
from common.look.survey import survey
from common.look.token_counts import QWEN3_5, token_counts
from common.prepare.pictures import Looks, dataset_row
from common.prepare.source import SourceRow
from common.prompt_lengths import lengths_of_folder
from tests.browser import screenshot_of

CHECKPOINT = Path(__file__).resolve().parents[3] / "deploy/quickstart/checkpoint"
PROBLEM = "<image>\nWhich digit is on the <b>tag</b>?"


def good_row(folder: Path, number: int, size: tuple[int, int] = (320, 240), **changes: Any) -> Row:
    """With a picture of its own; `changes` are of the Parquet row."""
    source = folder / f"{number}.jpg"
    if not source.exists():
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG")
        source.write_bytes(content.getvalue())
    (folder / "pictures").mkdir(exist_ok=True)
    found = SourceRow(f"s{number}", PROBLEM, source, None, (10, 20, 90, 60), "7")
    return dataset_row(found, Looks(folder, bakes=False)) | changes


def dataset(folder: Path, *changes: dict[str, Any]) -> Path:
    """A row for each of `changes`."""
    folder.mkdir(exist_ok=True)
    rows = [good_row(folder, number, **change) for number, change in enumerate(changes)]
    write_rows(rows, folder / "train.parquet")
    return folder


def remarks(folder: Path, answered: bool = True) -> list[str]:
    counts = token_counts(None)
    names = {f"s{number}" for number in range(99)} if answered else set()
    path = folder / "train.parquet"
    found = survey(path, parsed_rows(path), counts, names, ())
    return [str(remark) for remark in remarks_of(found, counts)]


def test_the_sheet_shows_rows_with_pictures_box_and_both_counts(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {}, {})
    path, num_remarks = look(folder, None, None, rows=24)
    page = path.read_text(encoding="utf-8")
    assert path == folder / "look.html" and num_remarks == 0
    assert page.count("<article>") == 2 and page.count("data:image/jpeg;base64,") == 4
    assert 'viewBox="0 0 320 240"' in page
    assert '<rect class="box" x="10" y="20" width="80" height="40"' in page
    # 320 x 240 is 80 tokens of 32 x 32 pixels; the crop, enlarged to 160 x 80, is made larger
    assert QWEN3_5.tokens_of(320, 240) == 80 and QWEN3_5.tokens_of(160, 80) == 72
    assert "80 student, 72 teacher" in page and "4.17% of the picture" in page
    assert "of the picture alone, by Qwen3.5" in page
    assert "&lt;b&gt;tag&lt;/b&gt;" in page and "<b>tag" not in page
    assert page.count("<figure>") == 7


def test_a_model_counts_the_whole_prompt(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {})
    path, _ = look(folder, tmp_path / "out.html", CHECKPOINT, rows=1)
    lengths = lengths_of_folder(CHECKPOINT, PromptSection())
    assert lengths is not None
    student, teacher = lengths.over(0, PROBLEM, 320, 240), lengths.over(0, PROBLEM, 160, 80)
    assert f"{student:,} student, {teacher:,} teacher" in path.read_text(encoding="utf-8")


def test_a_folder_that_does_not_tell_of_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model .*do not tell how prompts are counted\. Fix"):
        token_counts(tmp_path)


def test_rows_are_chosen_at_random_and_always_the_same(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", *[{} for _ in range(12)])
    pages = [look(folder, tmp_path / f"{n}.html", None, rows=3)[0].read_text() for n in range(2)]
    assert pages[0] == pages[1] and pages[0].count("<article>") == 3
    assert "12 rows" in pages[0]  # the distributions are of all


def test_a_good_set_has_no_remarks(tmp_path: Path) -> None:
    assert remarks(dataset(tmp_path, {}, {}, {})) == []


LARGE = {"width": 2400, "height": 1800}
BOX = [0, 0, 900, 800]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{}, {"box": [0, 0, 999, 9]}], "1 of 2 rows cannot be used"),
        ([{"width": 3000, "height": 2600}], "over 90% of model.max_prompt_tokens = 8192, its"),
        ([{"width": 9000, "height": 7000}], "data.max_picture_megapixels = 64, its default (0 are"),
        ([{"width": 9000, "height": 8000}], "data.max_picture_megapixels = 64, its default (1 are"),
        ([{"width": 19000, "height": 100}], "one side 200 times the other"),
        ([{"width": 21000, "height": 100}], "of a shape that the model's processor does not"),
        ([LARGE | {"box": BOX}] * 5, "boxes look normalised (rows 0, 1, 2, 3, 4). Fix: if boxes"),
        ([{"box": [0, 0, 1, 1]}] * 2, "2 of 2 rows have the box [0, 0, 1, 1]"),
        ([{}, {"box": [5, 5, 20, 200]}], "1 of 2 rows have a teacher's view with a side of less"),
        ([{"box": [0, 0, 319, 239]}], "1 of 1 rows have a box of more than 90%"),
    ],
)
def test_what_looks_wrong_is_told(tmp_path: Path, changes: list[Any], told: str) -> None:
    found = remarks(dataset(tmp_path, *changes))
    assert [line for line in found if told in line], found
    assert all(". Fix: " in line for line in found)


@pytest.mark.parametrize(
    "changes",
    [
        [LARGE | {"box": BOX}] * 4,  # too few to tell
        [LARGE | {"box": BOX}] * 5 + [LARGE | {"box": [0, 0, 1001, 9]}],
        [{"width": 1400, "height": 1400, "box": BOX}] * 9,
        [{"box": [0, 0, 1, 1]}, {}],
    ],
)
def test_boxes_that_may_well_be_pixels_are_not_doubted(tmp_path: Path, changes: list[Any]) -> None:
    found = " ".join(remarks(dataset(tmp_path, *changes)))
    assert "normalised" not in found and "shares" not in found


def test_duplicates_are_questions_asked_twice_and_pictures_stored_twice(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [good_row(folder, number) for number in (0, 1, 1, 1, 2, 3)]
    for number, row in enumerate(rows):
        row["sample_id"] = f"s{number}"
    rows[3]["problem"] += " Why?"
    rows[4] |= {name: rows[0][name] for name in ("image_sha256",)}  # path 2, content 0
    rows[5] |= {"image": rows[4]["image"], "image_sha256": rows[0]["image_sha256"]}
    write_rows(rows, folder / "train.parquet")
    found = remarks(folder)
    assert found[0].startswith("3 of 6 rows repeat a question about the same picture")
    assert "(rows 2, 4, 5)" in found[0]
    assert found[1].startswith("1 of 6 rows have a picture that an earlier row has under another")
    assert "(rows 4)" in found[1]


def test_missing_answers_are_told_and_eight_rows_named(tmp_path: Path) -> None:
    found = remarks(dataset(tmp_path, *[{} for _ in range(9)]), answered=False)
    assert found == [
        "9 of 9 rows have no answer (rows 0, 1, 2, 3, 4, 5, 6, 7, ...). Fix: fill the column "
        "answer where accuracy is to be measured; training needs none"
    ]


def test_bad_rows_are_named_with_field_value_and_fix(tmp_path: Path) -> None:
    bad = {"problem": "<script>alert(1)</script>"}
    path, num_remarks = look(dataset(tmp_path, {}, *[bad] * 7), None, None, rows=8)
    page = path.read_text()
    assert num_remarks == 1 and page.count("&lt;script&gt;alert(1)") == 5
    assert "<script" not in page and "row 1, sample" in page and page.count("<article>") == 1


def test_a_set_without_a_good_row_has_a_sheet(tmp_path: Path) -> None:
    path, num_remarks = look(dataset(tmp_path, {"problem": "none"}), None, None, rows=8)
    assert num_remarks == 1 and "1 of 1 rows cannot be used" in path.read_text()


def test_a_picture_that_is_gone_or_changed_is_told_on_its_card(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {}, {"image_sha256": "0" * 64})
    page = look(folder, None, None, rows=2)[0].read_text()
    assert "sha256 is" in page and page.count("data:image/jpeg") == 2


def test_the_command_says_where_the_sheet_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "set", {"answer": None})
    out = tmp_path / "sheet.html"
    main([str(folder / "train.parquet"), "--out", str(out), "--rows", "0"])
    assert capsys.readouterr().out == f"{out}: what looks wrong: 1\n"
    assert "<article>" not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["{}/nowhere"], 1, "cannot look: dataset {}/nowhere/train.parquet: there is no such file"),
        (["{}", "--model", "{}"], 2, "cannot look: --model {}: its files do not tell"),
        (["{}", "--out", "{}/no/such/folder.html"], 1, "name another file by --out"),
        (["{}", "--rows", "501"], 2, "--rows 501: not 0 to 500. Fix: show fewer"),
        (["{}", "--row", "5"], 2, "unrecognized arguments: --row"),
    ],
)
def test_the_command_refuses_with_a_fix(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    folder = dataset(tmp_path / "set", {})
    with pytest.raises(SystemExit) as end:
        main([argument.format(folder) for argument in arguments])
    assert end.value.code == code
    assert told.format(folder) in capsys.readouterr().err


def test_a_survey_keeps_numbers_alone(tmp_path: Path) -> None:
    """So that a hundred thousand rows fit: no text, no sample but those that are shown."""
    folder = dataset(tmp_path, *[{"problem": f"<image>{'long ' * 500}{n}"} for n in range(20)])
    path = folder / "train.parquet"
    found = survey(path, parsed_rows(path), token_counts(None), (), {3, 5})
    assert [numbered.row for numbered in found.shown] == [3, 5]
    assert all(column.nbytes == 20 * 8 for column in found.columns.values())
    assert found.num_good == 20 and found.num_bad == 0


def test_a_row_without_evidence_is_shown_and_told(tmp_path: Path) -> None:
    """Views that need none can use it."""
    folder = dataset(tmp_path, {}, {})
    first, second = read_samples(folder / "train.parquet")[0]
    rows = [Numbered(0, first), Numbered(1, second.model_copy(update={"box": None}))]
    counts = token_counts(None)
    found = survey(folder / "train.parquet", rows, counts, {"s0", "s1"}, {0, 1})
    told = remarks_of(found, counts)
    assert [str(remark) for remark in told] == [
        "1 of 2 rows have neither a box nor a crop (rows 1). Fix: give one, or choose views that "
        "need none"
    ]
    page = sheet(found, told, counts, {}, ImageStore(folder))
    assert page.count("data:image/jpeg") == 3 and page.count("<em>no evidence</em>") == 1
    assert "80 student, 0 teacher" in page and page.count("1 rows</span>") == 3


def test_a_browser_draws_the_sheet(tmp_path: Path) -> None:
    source = tmp_path / "teal.png"
    Image.new("RGB", (320, 240), (0, 128, 128)).save(source)
    (tmp_path / "pictures").mkdir()
    row = dataset_row(
        SourceRow("s", PROBLEM, source, None, (10, 20, 90, 60), None),
        Looks(tmp_path, bakes=False),
    )
    write_rows([row], tmp_path / "train.parquet")
    path, _ = look(tmp_path, None, None, rows=1)
    shown = screenshot_of(path, tmp_path, (500, 3200)).get_flattened_data()
    teal = sum(max(abs(r), abs(g - 128), abs(b - 128)) < 12 for r, g, b in shown)
    red = sum(r > 200 and g < 120 and b < 120 for r, g, b in shown)
    assert teal > 20_000 and red > 100  # picture and crop; the box
