"""What engines are given: made once, kept within bounds, and digested as the learner does."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import StudentSection
from common.errors import DataError
from common.images import ImageStore
from common.types import Box, ImageRef, Sample
from rollout.engine_views import EngineViews
from tests.viewing import settings_of, shown_to


@pytest.fixture
def content() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def sample(content: bytes) -> Sample:
    image = ImageRef(sha256=hashlib.sha256(content).hexdigest(), path="a.png", width=64, height=48)
    box = Box(x1=8, y1=8, x2=24, y2=24)
    return Sample(sample_id="a", problem="<image>?", image=image, box=box, crop=None)


@pytest.mark.parametrize("name", ["full", "red_box", "degraded", "crop"])
def test_the_engine_is_shown_what_the_learner_renders(
    renderer, content: bytes, sample: Sample, name: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    settings = settings_of(StudentSection(hint=" Look."))
    seen = EngineViews(renderer, settings).make(sample, name, 5, content)
    ours = shown_to(name, sample, ImageStore(tmp_path), settings, 5)
    assert seen.problem == ours.problem
    assert seen.record.sha256 == renderer.prompt(ours.problem, ours.picture).sha256
    with Image.open(io.BytesIO(seen.image)) as picture:
        assert picture.tobytes() == renderer.fitted(ours.picture).tobytes()


def test_a_plain_file_is_given_as_it_is(renderer, content: bytes, sample: Sample) -> None:
    views = EngineViews(renderer, settings_of())
    assert views.make(sample, "full", 0, content).image is content
    assert views.source(sample, "full") == sample.image


def test_seeds_that_have_no_say_share_what_is_kept(
    renderer, content: bytes, sample: Sample
) -> None:
    views = EngineViews(renderer, settings_of())
    assert views.known(sample, "full", 1) is None
    made = views.make(sample, "full", 1, content)
    assert views.known(sample, "full", 2) is made
    views.make(sample, "degraded", 1, content)
    assert views.known(sample, "degraded", 2) is None


def test_old_images_make_room(renderer, content: bytes, sample: Sample) -> None:
    views = EngineViews(renderer, settings_of(), cache_bytes=len(content))
    views.make(sample, "full", 0, content)
    other = sample.model_copy(update={"sample_id": "b"})
    views.make(other, "full", 0, content)
    assert views.known(sample, "full", 0) is None and views.known(other, "full", 0) is not None


def test_a_picture_that_cannot_be_shown_is_named(renderer, sample: Sample) -> None:
    with pytest.raises(DataError, match=r"image a\.png"):
        EngineViews(renderer, settings_of()).make(sample, "full", 0, b"no picture")
