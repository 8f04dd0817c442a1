"""Pictures of samples are those that the learner shows its models."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.config import RunConfig
from common.config_cli import dump_toml
from common.dataset import read_samples
from common.errors import ConfigError, DataError
from common.images import ImageStore
from common.views.settings import ViewSettings
from common.views.showing import derived_seed
from deploy.inspector.pictures import picture
from learner.views.renderer import ViewRenderer
from tests.tiny_world import make_dataset


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    train = make_dataset(tmp_path / "train", 3, seed=1)
    heldout = make_dataset(tmp_path / "heldout", 5, seed=2)
    return RunConfig.model_validate(
        {
            "run": {"folder": tmp_path / "run", "seed": 11},
            "data": {"train": train, "heldout": heldout},
            "student": {"view": "degraded"},
            "teacher": {"view": "random_crop"},
        }
    )


@pytest.fixture
def run(config: RunConfig) -> Path:
    folder = config.run.folder
    assert folder is not None
    folder.mkdir()
    (folder / "config.toml").write_text(dump_toml(config))
    return folder


def pixels(found: tuple[bytes, str]) -> np.ndarray:
    content, kind = found
    with Image.open(io.BytesIO(content)) as file:
        assert kind == f"image/{file.format.lower()}" and file.mode == "RGB"  # type: ignore[union-attr]
        return np.asarray(file)


def test_both_views_of_a_group_are_the_pixels_that_the_learner_renders(config, run):
    assert config.data.train is not None
    samples, _ = read_samples(config.data.train)
    images = ImageStore(config.data.train.parent)
    settings = ViewSettings.of(config)
    shown = {}
    for group_id in ("0/1", "1/2"):
        seed = derived_seed(config.run.seed, group_id)
        for role, name in (("student", settings.student), ("teacher", settings.teacher)):
            # What renders for the learner calls a teacher's view by its name in the settings.
            asked = settings.model_copy(update={"teacher": name})
            learners = ViewRenderer(None, images, asked, None)  # type: ignore[arg-type]
            ours = pixels(picture(run, "s1", role, group_id))  # type: ignore[arg-type]
            assert np.array_equal(ours, np.asarray(learners.teacher_picture(samples[1], seed)))
            shown[role, group_id] = ours
    assert not np.array_equal(shown["student", "0/1"], shown["student", "1/2"])
    full = pixels(picture(run, "s1", "full", "0/1"))
    assert np.array_equal(full, np.asarray(images.open(samples[1].image)))


def test_without_a_group_a_sample_that_measures_is_shown_as_it_is_measured(config, run):
    assert config.data.heldout is not None and config.data.train is not None
    stored = pixels(picture(run, "s1", "student"))
    images = ImageStore(config.data.heldout.parent)
    sample = read_samples(config.data.heldout)[0][1]
    assert np.array_equal(stored, np.asarray(images.open(sample.image)))
    crop = pixels(picture(run, "s1", "teacher"))
    assert crop.shape != stored.shape
    for path in config.data.heldout.parent.glob("*.parquet"):
        path.unlink()
    of_train = pixels(picture(run, "s1", "full"))
    assert not np.array_equal(stored, of_train)


def test_a_small_picture_is_asked_for_by_its_longest_side(run):
    content, kind = picture(run, "s0", "full", "0/0", longest_side=16)
    assert kind == "image/jpeg" and pixels((content, kind)).shape == (12, 16, 3)
    assert picture(run, "s0", "full", "0/0", longest_side=64)[1] == "image/png"


def test_what_is_gone_or_changed_is_said_in_words(config, run, tmp_path):
    assert config.data.train is not None
    with pytest.raises(DataError, match=r"sample s9 is not in .*samples\.parquet any more"):
        picture(run, "s9", "full", "0/1")
    (config.data.train.parent / "images" / "1.png").write_bytes(b"another")
    with pytest.raises(DataError, match=r"1\.png: sha256 is .* Fix: restore"):
        picture(run, "s1", "full", "0/1")
    (config.data.train.parent / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: there is no such file"):
        picture(run, "s2", "teacher", "0/1")
    boxless = pq.read_table(config.data.train).drop(["box"])
    pq.write_table(boxless, config.data.train)
    with pytest.raises(DataError, match="box"):
        picture(run, "s0", "teacher", "0/1")
    config.data.train.unlink()
    with pytest.raises(DataError, match=r"samples\.parquet cannot be read"):
        picture(run, "s0", "full", "0/1")
    with pytest.raises(ConfigError, match=r"config\.toml cannot be read"):
        picture(tmp_path / "nowhere", "s0", "full")


def test_pictures_do_not_load_torch():
    code = "import sys, deploy.inspector.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
