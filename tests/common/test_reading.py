"""What the set as a whole, a view's size and a picture's header tell before generation.

Holds common/picture_checks.py, common/sample_checks.py.
"""

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.config import DataSection, ModelSection, RunConfig, TeacherSection
from common.errors import DataError
from common.pictures import decode_picture, header_size
from common.reading import Reading, read_checked
from common.types import Box, ImageRef, Sample
from common.views.registry import view_named
from tests.picture_files import KINDS, picture_file, scene
from tests.poison.rows import Folder, Row, write_table
from tests.viewing import settings_of, teacher_picture

CHECKPOINT = Path(__file__).resolve().parents[2] / "deploy/quickstart/checkpoint"


def read(folder: Path, rows: list[Row], teacher: Any = None, **model: Any) -> Reading:
    config = RunConfig(
        data=DataSection(train=write_table(rows, folder / "train.parquet")),
        model=ModelSection(path=str(CHECKPOINT), **model),
        teacher=TeacherSection(**teacher or {}),
    )
    return read_checked(config, folder / "train.parquet")


def large(folder: Path, number: int, box: list[int]) -> Row:
    """A row with a picture of 3000 x 2000 pixels, whose header alone is there."""
    header = struct.pack(">IIBBBBB", 3000, 2000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    name = Folder(folder, f"large {number}")
    return name.row(content, width=3000, height=2000, box=box)


# ---- boxes of a whole set ------------------------------------------------------------------------
def test_boxes_that_are_all_of_shares_are_refused(tmp_path: Path) -> None:
    rows = [Folder(tmp_path, f"s{number}").row(box=[0, 0, 1, 1]) for number in range(3)]
    with pytest.raises(DataError, match=r"box = \[0, 0, 1, 1\]: shares of .* in all rows\. Fix"):
        read(tmp_path, rows)
    rows.append(Folder(tmp_path, "other").row())
    assert len(read(tmp_path, rows).samples) == 4  # one that is no share: they are pixels


@pytest.mark.parametrize(("last", "warnings"), [(1000, 1), (1001, 0)])
def test_boxes_that_never_leave_a_thousand_are_a_warning(
    tmp_path: Path, last: int, warnings: int
) -> None:
    rows = [large(tmp_path, number, [9, 9, 500 + number, 900]) for number in range(19)]
    assert read(tmp_path, rows).warnings == ()  # too few to tell
    found = read(tmp_path, [*rows, large(tmp_path, 19, [9, 9, last, 900])])
    assert len(found.samples) == 20 and len(found.warnings) == warnings
    if warnings:
        assert found.warnings[0].startswith("box: no box of 20 reaches beyond 1000, though 20")


# ---- both views ----------------------------------------------------------------------------------
def test_a_prompt_is_counted_for_both_views(tmp_path: Path) -> None:
    row = Folder(tmp_path, "a").row(box=[0, 0, 96, 64])
    small = read(tmp_path, [row], {"crop_scale": 1}, max_prompt_tokens=60)
    assert len(small.samples) == 1
    with pytest.raises(DataError, match=r"the teacher's prompt of \d+ tokens, .* 384 x 256 pixels"):
        read(tmp_path, [row], {"crop_scale": 4}, max_prompt_tokens=60)
    with pytest.raises(DataError, match=r": the prompt of \d+ tokens, with a picture of 96 x 64"):
        read(tmp_path, [row], max_prompt_tokens=20)
    with pytest.raises(DataError, match=r"10560 x 7040 pixels is over 64 megapixels"):
        read(tmp_path, [row], {"crop_scale": 110})


def test_a_control_that_needs_the_box_says_so(tmp_path: Path) -> None:
    content = picture_file("png", 48, 32)
    row = Folder(tmp_path, "a").crop_row(content, box=None)
    assert len(read(tmp_path, [row]).samples) == 1
    assert len(read(tmp_path, [row], {"view": "full"}).samples) == 1
    with pytest.raises(DataError, match=r"teacher.view = random_crop needs it. Fix: give the box"):
        read(tmp_path, [row], {"view": "random_crop"})


@pytest.mark.parametrize("view", ["crop", "full", "random_crop", "answer_hint"])
@pytest.mark.parametrize(("margin", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.1, 2.5)])
def test_the_teachers_size_is_that_of_its_view(
    tmp_path: Path, view: Any, margin: float, scale: float
) -> None:
    from common.images import ImageStore

    row = Folder(tmp_path, "a").row()
    image = ImageRef(sha256=row["image_sha256"], path=row["image"], width=96, height=64)
    for box in (Box(x1=0, y1=0, x2=1, y2=1), Box(x1=7, y1=9, x2=50, y2=64)):
        sample = Sample(sample_id="a", problem="<image>", image=image, box=box, crop=None)
        teacher = TeacherSection(view=view, crop_margin=margin, crop_scale=scale)
        seen = teacher_picture(sample, ImageStore(tmp_path), teacher, seed=3)
        assert view_named(view).size(sample, settings_of(teacher=teacher)) == seen.size


# ---- headers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_header_tells_the_size_of_the_picture_that_is_decoded(tmp_path: Path, kind: str) -> None:
    content = picture_file(kind, 96, 64)
    (tmp_path / "a").write_bytes(content)
    assert header_size(tmp_path / "a", (96, 64)) == decode_picture(content, "a").size == (96, 64)
    assert header_size(tmp_path / "a", (64, 96)) == (96, 64)


def test_an_orientation_behind_the_pixels_is_found_where_it_is_likely(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    scene(96, 64).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    end = content.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:end] + chunk + content[end:])
    assert header_size(tmp_path / "a.png", (64, 96)) == (64, 96)
    assert decode_picture((tmp_path / "a.png").read_bytes(), "a").size == (64, 96)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_system_in_trouble_costs_no_row(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, said: tuple[int, int]) -> None:
        raise OSError(number, os.strerror(number))

    rows = [large(tmp_path, number, [0, 0, 9, 9]) for number in range(2)]
    monkeypatch.setattr("common.picture_checks.header_size", failing)
    with pytest.raises(DataError, match="Fix: this says nothing of the row") as refused:
        read(tmp_path, rows)
    assert os.strerror(number) in str(refused.value)


def test_many_rows_are_looked_at_in_order(tmp_path: Path) -> None:
    rows = [Folder(tmp_path, "one").row() | {"sample_id": f"s{i}"} for i in range(300)]
    for number in (5, 70, 299):
        rows[number] |= {"image": f"pictures/none-{number}.png"}
    found = read(tmp_path, rows)
    assert [bad.row for bad in found.bad_rows] == [5, 70, 299] and found.num_rows == 300
    assert found.bad_rows[0].value == "'pictures/none-5.png'"
    assert len(found.samples) == 297
