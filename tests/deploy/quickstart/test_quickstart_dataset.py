import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import TeacherSection
from common.dataset import read_answers, read_samples
from common.errors import DataError
from common.images import ImageStore
from deploy.quickstart import own
from deploy.quickstart.dataset import DatasetParameters, scenes_of, write_dataset
from deploy.quickstart.scenes import CROP_SIDE, SCENE_SIDE, answer, crop_box, question
from tests.viewing import teacher_picture

PARAMETERS = DatasetParameters(num_train=12, num_heldout=6, seed=5)
TEACHER = TeacherSection(crop_margin=0.5, crop_scale=1.0)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_are_read_back_as_samples_with_their_images(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, PARAMETERS)
    for split, count in (("train", 12), ("heldout", 6)):
        samples, problems = read_samples(tmp_path / f"{split}.parquet")
        assert not problems
        assert len(samples) == count
        answers = read_answers(tmp_path / f"{split}.parquet")
        images = ImageStore(tmp_path)
        for sample, scene in zip(samples, scenes_of(split, count, seed=5), strict=True):
            assert np.array_equal(np.asarray(images.open(sample.image)), scene.pixels)
            assert sample.problem == "<image>\n" + question(scene.evidence.color)
            assert answers[sample.sample_id] == answer(scene.evidence)
            assert (sample.box.x1, sample.box.y1, sample.box.x2, sample.box.y2) == (
                scene.evidence.box
            )


def test_teacher_view_of_the_quickstart_is_the_evidence_crop(tmp_path: Path) -> None:
    write_dataset(tmp_path, PARAMETERS)
    samples, _ = read_samples(tmp_path / "heldout.parquet")
    for sample, scene in zip(samples, scenes_of("heldout", 6, seed=5), strict=True):
        seen = teacher_picture(sample, ImageStore(tmp_path), TEACHER)
        x1, y1, x2, y2 = crop_box(scene.evidence, CROP_SIDE, SCENE_SIDE)
        assert np.array_equal(np.asarray(seen), scene.pixels[y1:y2, x1:x2])


def test_writing_twice_does_nothing_and_writing_elsewhere_gives_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert write_dataset(first, PARAMETERS)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert not write_dataset(first, PARAMETERS)
    assert times == {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert write_dataset(second, PARAMETERS)
    assert content(first) == content(second)


def test_other_parameters_or_a_cut_short_write_are_written_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, PARAMETERS)
    assert write_dataset(tmp_path, DatasetParameters(num_train=4, num_heldout=6, seed=6))
    assert len(read_samples(tmp_path / "train.parquet")[0]) == 4
    before = content(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"num_train": 4})[:-1])
    assert write_dataset(tmp_path, DatasetParameters(num_train=4, num_heldout=6, seed=6))
    assert content(tmp_path) == before


def test_a_missing_image_is_written_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, PARAMETERS)
    before = content(tmp_path)
    next((tmp_path / "images").iterdir()).unlink()
    assert write_dataset(tmp_path, PARAMETERS)
    assert content(tmp_path) == before


def test_images_are_png_files_named_by_their_content(tmp_path: Path) -> None:
    write_dataset(tmp_path, PARAMETERS)
    for path in (tmp_path / "images").iterdir():
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_of_two_first_starts_at_once_one_makes_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh clone both find nothing there; the second one waits and then finds it."""
    monkeypatch.setattr(own, "CACHE", tmp_path / "made" / "world")
    monkeypatch.setattr(own, "NUM_TRAIN", 4)
    monkeypatch.setattr(own, "NUM_HELDOUT", 2)
    train = tmp_path / "made" / "world" / "train.parquet"
    said: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: own.ensure_own_dataset(train, said.append), range(3)))
    assert sum(line.startswith("train: 4/4 ") for line in said) == 1
    assert train.is_file()
    assert not list(train.parent.rglob("*part*"))


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(own, "CACHE", tmp_path / "file" / "world")
    told = r"the quickstart's data cannot be made in .*: Not a directory\. Fix: "
    with pytest.raises(DataError, match=told):
        own.ensure_own_dataset(own.CACHE / "train.parquet", lambda line: None)
