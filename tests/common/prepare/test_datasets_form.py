"""A Parquet file that the real `datasets` wrote (datasets_form/make.py says how and which)."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.dataset import read_answers, read_samples
from common.images import ImageStore
from tests.common.prepare.rows_files import custom

FORM = Path(__file__).parent / "datasets_form"


def test_pictures_of_datasets_are_read_from_bytes_and_from_paths(tmp_path: Path) -> None:
    words = ("--box-units", "pixels", "--box-form", "xyxy")
    made = custom(FORM / "rows.parquet", tmp_path, *words)
    samples, bad = read_samples(tmp_path / "train.parquet")
    assert bad == [] and (tmp_path / "left_out.txt").read_text() == ""
    sizes = [(s.image.width, s.image.height) for s in samples]
    assert sizes == [(24, 16), (16, 24), (24, 16)]
    boxes = [tuple(s.box.model_dump().values()) for s in samples if s.box]
    assert boxes == [(0, 0, 12, 8), (8, 12, 16, 24), (1, 2, 3, 4)]
    assert list(read_answers(tmp_path / "train.parquet").values()) == ["yes", "no"]
    seen = np.asarray(ImageStore(tmp_path).open(samples[2].image))
    with Image.open(FORM / "on_disk.png") as there:
        assert (seen == np.asarray(there)).all()
    assert [len(row["views"]) for row in made] == [1, 1, 1]  # kept as it is


def test_a_list_of_images_is_a_column_of_pictures_too(tmp_path: Path) -> None:
    words = ("--column", "picture=views", "--column", "crop=image", "--column", "box=answer")
    # `answer` holds no boxes: its rows are refused, but for the one that has none.
    made = custom(FORM / "rows.parquet", tmp_path, *words, "--box-units=unit", "--box-form=xyxy")
    assert [(row["width"], row["crop_width"]) for row in made] == [(24, 16)]
    assert len((tmp_path / "left_out.txt").read_text().splitlines()) == 2
