"""Views: what each shows, that a seed alone decides what is drawn, and what the record says.

Holds common/views/kinds/.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.config import RunConfig, StudentSection, TeacherSection
from common.errors import ConfigError, DataError
from common.images import ImageStore
from common.types import Box, ImageRef, Sample
from common.views.contrast import pixelated
from common.views.degradations import DEGRADATIONS, Degradation
from common.views.regions import cut, moved_at_random, with_margin
from common.views.registry import names_for, view_named, views
from common.views.settings import ViewSettings
from common.views.showing import derived_seed, record_of, shown_digest
from tests.viewing import settings_of, shown_to

pytestmark = pytest.mark.smoke

SIZE = (160, 120)
SETTINGS = settings_of()
RED = [255, 0, 0]


def gradient() -> Image.Image:
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    return Image.fromarray(np.stack([x, y, x ^ y], axis=-1).astype(np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    gradient().save(tmp_path / "full.png")
    return ImageStore(tmp_path)


@pytest.fixture
def sample(store: ImageStore, tmp_path: Path) -> Sample:
    digest = hashlib.sha256((tmp_path / "full.png").read_bytes()).hexdigest()
    image = ImageRef(sha256=digest, path="full.png", width=SIZE[0], height=SIZE[1])
    box = Box(x1=40, y1=20, x2=60, y2=30)
    return Sample(sample_id="s", problem="<image>?", image=image, box=box, crop=None)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1 = draw(st.integers(0, SIZE[0] - 1))
    y1 = draw(st.integers(0, SIZE[1] - 1))
    x2 = draw(st.integers(x1 + 1, SIZE[0]))
    y2 = draw(st.integers(y1 + 1, SIZE[1]))
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


# ---- the registry --------------------------------------------------------------------------------
def test_every_module_of_kinds_is_a_view_of_its_own_name() -> None:
    assert sorted(views()) == [
        "answer_hint", "box_text", "crop", "degraded", "full", "random_crop", "red_box",
    ]  # fmt: skip
    assert all(view.name == name for name, view in views().items())
    assert names_for("student") == ["degraded", "full", "red_box"]
    assert names_for("teacher") == ["answer_hint", "box_text", "crop", "full", "random_crop"]


def test_only_the_answer_hint_shows_a_label() -> None:
    assert [name for name, view in views().items() if view.shows_answer] == ["answer_hint"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"student": {"view": "crop"}}, r"no view 'crop'. Fix: choose one of degraded, full, red"),
        ({"teacher": {"view": "zoom"}}, r"no view 'zoom'. Fix: choose one of answer_hint"),
        ({"student": {"degradations": ["rain"]}}, r"no degradation 'rain'. Fix: choose of shrink"),
    ],
)
def test_an_unknown_view_is_refused_with_the_known_ones(section: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(section)
    with pytest.raises(ConfigError):
        view_named("zoom")


@pytest.mark.parametrize("name", views())
def test_a_view_has_the_size_that_the_row_foretells_and_leaves_the_file_alone(
    store: ImageStore, sample: Sample, name: str
) -> None:
    before = store.open(sample.image).tobytes()
    shown = shown_to(name, sample, store, SETTINGS, 3, answer="7")
    assert shown.picture.size == view_named(name).size(sample, SETTINGS)
    assert shown.picture.mode == "RGB" and shown.problem.count("<image>") == 1
    assert store.open(sample.image).tobytes() == before
    is_same = shown.picture.tobytes() == before
    assert is_same == (name in ("answer_hint", "box_text", "full"))


@pytest.mark.parametrize("name", views())
def test_what_is_drawn_depends_on_the_seed_alone(
    store: ImageStore, sample: Sample, name: str
) -> None:
    once, again, other = (
        shown_to(name, sample, store, SETTINGS, seed, "7").picture.tobytes() for seed in (1, 1, 2)
    )
    assert once == again
    assert (once != other) == view_named(name).is_seeded


@pytest.mark.parametrize("name", ["crop", "random_crop", "red_box", "box_text"])
def test_a_sample_without_evidence_is_a_data_error_where_it_is_needed(
    store: ImageStore, sample: Sample, name: str
) -> None:
    bare = sample.model_copy(update={"box": None})
    assert view_named(name).size(bare, SETTINGS) is None
    with pytest.raises(DataError, match="sample s has"):
        shown_to(name, bare, store, SETTINGS)


@pytest.mark.parametrize("name", ["full", "degraded", "answer_hint"])
def test_other_views_need_no_box(store: ImageStore, sample: Sample, name: str) -> None:
    bare = sample.model_copy(update={"box": None})
    assert shown_to(name, bare, store, SETTINGS, answer="7").picture.size == SIZE


@pytest.mark.parametrize("name", views())
def test_a_view_has_no_size_exactly_where_it_cannot_be_shown(
    store: ImageStore, sample: Sample, name: str
) -> None:
    """Planner and checks of rows go by the size."""
    bare = sample.model_copy(update={"box": None})
    try:
        size = shown_to(name, bare, store, SETTINGS, answer="7").picture.size
    except DataError:
        size = None
    assert view_named(name).size(bare, SETTINGS) == size


# ---- crops ---------------------------------------------------------------------------------------
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


def test_crop_view_is_the_box_enlarged(store: ImageStore, sample: Sample) -> None:
    assert shown_to("crop", sample, store, SETTINGS).picture.size == (40, 20)
    exact = shown_to("crop", sample, store, settings_of(teacher=TeacherSection(crop_scale=1)))
    np.testing.assert_array_equal(np.asarray(exact.picture), np.asarray(gradient())[20:30, 40:60])


def test_a_ready_crop_is_shown_as_it_is(store: ImageStore, sample: Sample, tmp_path: Path) -> None:
    gradient().crop((0, 0, 9, 7)).save(tmp_path / "crop.png")
    digest = hashlib.sha256((tmp_path / "crop.png").read_bytes()).hexdigest()
    crop = ImageRef(sha256=digest, path="crop.png", width=9, height=7)
    ready = sample.model_copy(update={"crop": crop})
    assert shown_to("crop", ready, store, SETTINGS).picture.size == (9, 7)
    assert view_named("random_crop").size(ready, SETTINGS) == (40, 20)  # of the box


def test_a_box_outside_the_picture_is_a_data_error() -> None:
    with pytest.raises(DataError, match="outside"):
        with_margin(Box(x1=0, y1=0, x2=200, y2=10), 0, SIZE)


def test_cut_never_makes_an_empty_picture() -> None:
    assert cut(gradient(), Box(x1=0, y1=0, x2=1, y2=1), 0.1).size == (1, 1)


# ---- the red box ---------------------------------------------------------------------------------
def test_the_red_line_surrounds_the_evidence_and_hides_none_of_it(
    store: ImageStore, sample: Sample
) -> None:
    seen = np.asarray(shown_to("red_box", sample, store, SETTINGS).picture)
    expected = np.asarray(gradient()).copy()
    inside = expected[20:30, 40:60].copy()
    expected[16:34, 36:64] = RED
    expected[20:30, 40:60] = inside
    np.testing.assert_array_equal(seen, expected)


@given(boxes(), st.integers(1, 9))
def test_a_red_box_at_the_edge_changes_nothing_inside(box: Box, line: int) -> None:
    from common.views.kinds.red_box import with_red_box

    seen = np.asarray(with_red_box(gradient(), box, line))
    part = (slice(box.y1, box.y2), slice(box.x1, box.x2))
    np.testing.assert_array_equal(seen[part], np.asarray(gradient())[part])


# ---- degradations --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degradation_takes_more_the_stronger_it_is(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    lost = [
        np.abs(np.asarray(Degradation(name, s, 5).apply(picture)) - noise.astype(float)).mean()
        for s in (0.1, 0.5, 1.0)
    ]
    assert 0 < lost[0] < lost[1] < lost[2]


@given(
    st.sampled_from(sorted(DEGRADATIONS)), st.floats(0.01, 1), st.integers(1, 40),
    st.integers(1, 40),
)  # fmt: skip
def test_a_degradation_keeps_size_and_mode(
    name: str, strength: float, width: int, height: int
) -> None:
    seen = Degradation(name, strength, 1).apply(gradient().crop((0, 0, width, height)))
    assert (seen.size, seen.mode) == ((width, height), "RGB")


def test_what_was_drawn_is_told() -> None:
    settings = settings_of(StudentSection(degradations=("blur",), degradation_strength=0.4))
    record = record_of("degraded", settings, 7, "0" * 64)
    name, strength = record.note.split()
    assert (record.name, record.seed, name) == ("degraded", 7, "blur")
    assert 0.2 <= float(strength) <= 0.4
    assert str(record) == f"degraded, seed 7: {record.note} (000000000000...)"
    assert record_of("full", settings, 7, "0" * 64).seed == 0  # it draws nothing


def test_seeds_draw_all_degradations() -> None:
    notes = {views()["degraded"].note(SETTINGS, seed).split()[0] for seed in range(64)}
    assert notes == set(DEGRADATIONS)


# ---- texts ---------------------------------------------------------------------------------------
def test_an_answer_goes_into_the_hint_as_it_stands(store: ImageStore, sample: Sample) -> None:
    hint = TeacherSection(answer_hint="\nAnswer: {answer}. {other} Again: {answer}")
    settings = settings_of(teacher=hint)
    shown = shown_to("answer_hint", sample, store, settings, answer="{0} \\boxed{x}")
    assert shown.problem == "<image>?\nAnswer: {0} \\boxed{x}. {other} Again: {0} \\boxed{x}"
    assert shown.picture.tobytes() == gradient().tobytes()


def test_a_text_that_asks_for_a_second_picture_is_a_data_error(
    store: ImageStore, sample: Sample
) -> None:
    with pytest.raises(DataError, match=r"holds '<image>'.*Fix: take it out of the answer"):
        shown_to("answer_hint", sample, store, SETTINGS, answer="see <image>")
    with pytest.raises(DataError, match=r"Fix: take it out of student.hint"):
        shown_to("full", sample, store, settings_of(StudentSection(hint=" <image>")))


def test_a_box_is_told_in_thousandths_of_the_sides(store: ImageStore, sample: Sample) -> None:
    settings = settings_of(teacher=TeacherSection(box_text=" at {x1},{y1},{x2},{y2} {z}"))
    shown = shown_to("box_text", sample, store, settings)
    assert shown.problem == "<image>? at 250,167,375,250 {z}"  # of 40, 20, 60, 30 in 160 x 120


def test_the_hint_is_told_to_student_and_teacher_and_not_when_measuring(
    store: ImageStore, sample: Sample
) -> None:
    settings = settings_of(StudentSection(hint=" Look well."))
    for name in ("full", "crop"):
        assert shown_to(name, sample, store, settings).problem == "<image>? Look well."
    measuring = settings.measuring()
    assert (measuring.student, measuring.teacher, measuring.hint) == ("full", "crop", "")


# ---- the record ----------------------------------------------------------------------------------
def test_the_digest_is_of_text_size_and_pixels() -> None:
    digests = {
        shown_digest("a", gradient()),
        shown_digest("b", gradient()),
        shown_digest("a", gradient().transpose(Image.Transpose.ROTATE_180)),
        shown_digest("a", Image.new("RGB", (4, 2))),
        shown_digest("a", Image.new("RGB", (2, 4))),
    }
    assert len(digests) == 5
    assert shown_digest("a", gradient()) in digests


def test_seeds_are_of_run_and_group() -> None:
    assert derived_seed(0, "0/1") == derived_seed(0, "0/1")
    assert len({derived_seed(run, group) for run in (0, 1) for group in ("0/1", "0/2")}) == 4


def test_settings_come_from_both_sections() -> None:
    config = RunConfig(student=StudentSection(view="red_box"), teacher=TeacherSection(view="full"))
    settings = ViewSettings.of(config)
    assert (settings.student, settings.teacher) == ("red_box", "full")
    assert ViewSettings.model_validate_json(settings.model_dump_json()) == settings


# ---- the contrast --------------------------------------------------------------------------------
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
