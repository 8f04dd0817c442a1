import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import TeacherSection
from common.errors import DataError
from common.images import ImageStore
from common.types import Box, ImageRef, Sample
from common.views import (
    cut,
    moved_at_random,
    pixelated,
    teacher_view,
    with_answer_hint,
    with_margin,
)

SIZE = (160, 120)


def gradient() -> Image.Image:
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    return Image.fromarray(np.stack([x, y, x ^ y], axis=-1).astype(np.uint8))


@pytest.fixture
def store_and_sample(tmp_path: Path) -> tuple[ImageStore, Sample]:
    gradient().save(tmp_path / "full.png")
    digest = hashlib.sha256((tmp_path / "full.png").read_bytes()).hexdigest()
    image = ImageRef(sha256=digest, path="full.png", width=SIZE[0], height=SIZE[1])
    sample = Sample(
        sample_id="s",
        problem="<image>?",
        image=image,
        box=Box(x1=40, y1=20, x2=60, y2=30),
        crop=None,
    )
    return ImageStore(tmp_path), sample


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1 = draw(st.integers(0, SIZE[0] - 1))
    y1 = draw(st.integers(0, SIZE[1] - 1))
    x2 = draw(st.integers(x1 + 1, SIZE[0]))
    y2 = draw(st.integers(y1 + 1, SIZE[1]))
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


@given(boxes(), st.floats(0, 3))
def test_margin_keeps_the_evidence_and_stays_inside(box: Box, margin: float) -> None:
    wide = with_margin(box, margin, SIZE)
    assert 0 <= wide.x1 <= box.x1 < box.x2 <= wide.x2 <= SIZE[0]
    assert 0 <= wide.y1 <= box.y1 < box.y2 <= wide.y2 <= SIZE[1]
    assert wide.x2 - wide.x1 == min(SIZE[0], round((box.x2 - box.x1) * (1 + 2 * margin)))


@given(boxes(), st.integers(0, 2**31 - 1))
def test_random_box_has_the_same_size_and_is_repeatable(box: Box, seed: int) -> None:
    moved = moved_at_random(box, SIZE, seed)
    assert (moved.x2 - moved.x1, moved.y2 - moved.y1) == (box.x2 - box.x1, box.y2 - box.y1)
    assert moved.x1 >= 0 and moved.x2 <= SIZE[0] and moved.y1 >= 0 and moved.y2 <= SIZE[1]
    assert moved == moved_at_random(box, SIZE, seed)


def test_crop_view_is_the_box_enlarged(store_and_sample: tuple[ImageStore, Sample]) -> None:
    store, sample = store_and_sample
    view = teacher_view(sample, store, TeacherSection(crop_scale=2.0), seed=0)
    assert view.size == (40, 20)
    exact = teacher_view(sample, store, TeacherSection(crop_scale=1.0), seed=0)
    np.testing.assert_array_equal(np.asarray(exact), np.asarray(gradient())[20:30, 40:60])


def test_full_view_is_the_students_picture(store_and_sample: tuple[ImageStore, Sample]) -> None:
    store, sample = store_and_sample
    view = teacher_view(sample, store, TeacherSection(view="full"), seed=0)
    np.testing.assert_array_equal(np.asarray(view), np.asarray(gradient()))


def test_random_crop_depends_on_the_seed_alone(store_and_sample: tuple[ImageStore, Sample]) -> None:
    store, sample = store_and_sample
    config = TeacherSection(view="random_crop", crop_scale=1.0)
    views = [np.asarray(teacher_view(sample, store, config, seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_a_sample_without_evidence_is_a_data_error(
    store_and_sample: tuple[ImageStore, Sample],
) -> None:
    store, sample = store_and_sample
    bare = sample.model_copy(update={"box": None})
    with pytest.raises(DataError, match="neither a crop nor a box"):
        teacher_view(bare, store, TeacherSection(), seed=0)


def test_a_box_outside_the_picture_is_a_data_error() -> None:
    with pytest.raises(DataError, match="outside"):
        with_margin(Box(x1=0, y1=0, x2=200, y2=10), 0, SIZE)


def test_cut_never_makes_an_empty_picture() -> None:
    assert cut(gradient(), Box(x1=0, y1=0, x2=1, y2=1), 0.1).size == (1, 1)


def test_the_answer_hint_leaves_the_picture_as_it_is(
    store_and_sample: tuple[ImageStore, Sample],
) -> None:
    store, sample = store_and_sample
    bare = sample.model_copy(update={"box": None})  # no evidence is needed
    view = teacher_view(bare, store, TeacherSection(view="answer_hint"), seed=0)
    np.testing.assert_array_equal(np.asarray(view), np.asarray(gradient()))


def test_an_answer_goes_into_the_hint_as_it_stands() -> None:
    hint = "\nAnswer: {answer}. {other} Again: {answer}"
    text = with_answer_hint("<image>?", hint, "{0} \\boxed{x}")
    assert text == "<image>?\nAnswer: {0} \\boxed{x}. {other} Again: {0} \\boxed{x}"


def test_a_hint_that_asks_for_a_second_picture_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"holds '<image>'.*Fix:"):
        with_answer_hint("<image>?", " {answer}", "see <image>")


def test_pixelated_squares_have_the_mean_of_what_they_cover() -> None:
    picture = np.asarray(gradient())  # 160 x 120
    found = np.asarray(pixelated(gradient(), 32))  # 120 = 3 * 32 + 24: the last row is cut
    assert found.shape == picture.shape
    for y in range(0, 120, 32):
        for x in range(0, 160, 32):
            part = picture[y : y + 32, x : x + 32].reshape(-1, 3)
            square = found[y : y + 32, x : x + 32].reshape(-1, 3)
            assert (square == square[0]).all()
            assert np.abs(square[0] - part.mean(axis=0)).max() <= 0.5


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 50))
def test_pixelating_never_changes_the_size(width: int, height: int, pixels: int) -> None:
    picture = gradient().crop((0, 0, width, height))
    found = pixelated(picture, pixels)
    assert found.size == (width, height) and found.mode == "RGB"
    assert pixelated(found, pixels).tobytes() == found.tobytes()  # nothing is left to lose
