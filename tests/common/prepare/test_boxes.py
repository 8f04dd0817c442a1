"""common.prepare.boxes: units and forms of boxes, converted and recognised."""

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.bad_rows import BadField
from common.errors import ConfigError
from common.prepare.boxes import FORMS, PIXELS, UNITS, BoxForm, BoxTally, Numbers, in_pixels

SIZE = (640, 480)
WAYS = [BoxForm(units, form) for units in UNITS for form in FORMS]


def written(box: Numbers, how: BoxForm, size: tuple[int, int]) -> Numbers:
    """Corners in pixels, as somebody writes them in that way."""
    x1, y1, x2, y2 = box
    if how.form == "xywh":
        x2, y2 = x2 - x1, y2 - y1
    width, height = {"pixels": (1, 1), "unit": size}.get(how.units, (size[0] / 1e3, size[1] / 1e3))
    return x1 / width, y1 / height, x2 / width, y2 / height


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    width, height = draw(st.integers(8, 5000)), draw(st.integers(8, 5000))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    return (x1, y1, x2, y2), (width, height)


@given(boxes(), st.sampled_from(WAYS))
def test_a_box_is_the_same_pixels_however_it_is_written(
    drawn: tuple[tuple[int, int, int, int], tuple[int, int]], how: BoxForm
) -> None:
    box, size = drawn
    numbers = written(tuple(map(float, box)), how, size)  # type: ignore[arg-type]
    assume(how.units == "unit" or max(numbers) > 1)
    assert in_pixels(numbers, how, size) == box


@pytest.mark.parametrize(
    ("numbers", "how", "expected"),
    [
        ((10.4, 20.6, 39.2, 49.9), PIXELS, (10, 20, 40, 50)),
        ((0.1, 0.25, 0.5, 1), BoxForm("unit", "xyxy"), (64, 120, 320, 480)),
        ((100, 250, 500, 1000), BoxForm("thousand", "xyxy"), (64, 120, 320, 480)),
        ((64, 120, 256, 360), BoxForm("pixels", "xywh"), (64, 120, 320, 480)),
        ((0.1, 0.25, 0.4, 0.75), BoxForm("unit", "xywh"), (64, 120, 320, 480)),
        ((-0.4, 0, 640.4, 480), PIXELS, (0, 0, 640, 480)),
        ((640.2, 0, 640.4, 480), PIXELS, (639, 0, 640, 480)),
    ],
)
def test_whole_pixels_hold_the_region(
    numbers: Numbers, how: BoxForm, expected: tuple[int, ...]
) -> None:
    assert in_pixels(numbers, how, SIZE) == expected


@pytest.mark.parametrize(
    ("numbers", "how"),
    [
        ((10, 20, 10, 50), PIXELS),
        ((30, 20, 10, 50), PIXELS),
        ((10, 20, 641, 50), PIXELS),
        ((-1, 20, 30, 50), PIXELS),
        ((0.1, 0.1, 0.5, 0.6), PIXELS),
        ((0.1, 0.1, 0.5, 0.6), BoxForm("thousand", "xyxy")),
        ((10, 20, 30, 50), BoxForm("unit", "xyxy")),
        ((600, 20, 100, 50), BoxForm("pixels", "xywh")),
        ((60, 20, 0, 50), BoxForm("pixels", "xywh")),
        ((0, 0, 1001, 500), BoxForm("thousand", "xyxy")),
    ],
)
def test_what_is_no_rectangle_in_the_picture_is_refused(numbers: Numbers, how: BoxForm) -> None:
    with pytest.raises(BadField, match=r"^boxes = \[.*\. Fix: "):
        in_pixels(numbers, how, SIZE, "boxes")


# ---- recognised ----------------------------------------------------------------------------------
def tally_of(
    how: BoxForm, count: int, side: int, seed: int = 0, units: str = "auto", spread: float = 0.2
) -> BoxTally:
    """A set of small regions all over pictures of about that side."""
    rng = random.Random(seed)
    tally = BoxTally(units)
    for _ in range(count):
        width, height = (int(side * rng.uniform(1 - spread, 1 + spread)) for _ in range(2))
        x1, y1 = rng.uniform(0, 0.9) * width, rng.uniform(0, 0.9) * height
        box = (x1, y1, x1 + 0.1 * width, y1 + 0.1 * height)
        tally.add(written(box, how, (width, height)), (width, height))
    return tally


@pytest.mark.parametrize("side", [300, 2000])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", WAYS, ids=str)
def test_a_set_tells_how_its_boxes_are_written(how: BoxForm, side: int, seed: int) -> None:
    assert tally_of(how, 60, side, seed).decided() == how


def test_some_bad_boxes_do_not_hide_how_the_others_are_written() -> None:
    tally = tally_of(PIXELS, 90, 400)
    for _ in range(5):
        tally.add((0.1, 0.2, 0.3, 0.4), (400, 400))
        tally.add((300, 300, 100, 100), (400, 400))
    assert tally.decided() == PIXELS


def test_boxes_that_may_mean_two_things_are_refused_and_both_are_named() -> None:
    tally = BoxTally()
    tally.add((10, 20, 300, 400), SIZE)
    ways = r"--box-units pixels --box-form xyxy; .*--box-units thousand --box-form xyxy"
    with pytest.raises(ConfigError, match=rf"{ways}.* Fix: say which"):
        tally.decided()


def test_pictures_of_nearly_a_thousand_pixels_leave_the_units_open() -> None:
    with pytest.raises(ConfigError, match=r"pixels.*thousand"):
        tally_of(PIXELS, 60, 980, spread=0.01).decided()
    assert tally_of(PIXELS, 60, 980, units="pixels", spread=0.01).decided() == PIXELS


def test_boxes_that_stay_far_from_two_edges_leave_the_units_open() -> None:
    """Such a set may be of thousandths in a large picture, and of pixels in its corner."""
    tally = BoxTally(form="xyxy")
    for number in range(40):
        tally.add((number, number, number + 300, number + 200), (700, 600))
    with pytest.raises(ConfigError, match=r"pixels.*thousand"):
        tally.decided()


def test_boxes_of_whole_pictures_leave_the_form_open() -> None:
    """Their corner is their size."""
    tally = BoxTally(units="pixels")
    for side in range(100, 200):
        tally.add((0, 0, side, side), (side, side))
    with pytest.raises(ConfigError, match=r"xyxy.*xywh"):
        tally.decided()


def test_boxes_that_fit_nothing_are_refused() -> None:
    tally = BoxTally()
    for _ in range(30):
        tally.add((5000, 20, 10, 5), SIZE)
    with pytest.raises(ConfigError, match=r"fewer than half of 30.*--column box=NAME"):
        tally.decided()
