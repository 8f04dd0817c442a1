"""What is sent: pictures within limits, and the digest that a reply belongs to."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import ConfigError, DataError
from rollout.evaluation.questions import (
    PixelLimits,
    checked_limits,
    data_url,
    sent_picture,
    shown_sha256,
    small_picture,
)

SIDES = st.integers(1, 5000)


def encoded(kind: str, size: tuple[int, int] = (40, 20)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (10, 20, 30)).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "media"),
    [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif")],
)
def test_a_format_that_apis_take_is_sent_byte_by_byte(kind: str, media: str) -> None:
    content = encoded(kind)
    assert sent_picture(content, PixelLimits()) == (content, f"image/{media}")
    assert sent_picture(content, PixelLimits(1, 800)) == (content, f"image/{media}")
    assert data_url(content, PixelLimits()).startswith(f"data:image/{media};base64,")


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_another_format_becomes_a_png_of_the_same_pixels(kind: str) -> None:
    content, media = sent_picture(encoded(kind), PixelLimits())
    with Image.open(io.BytesIO(content)) as picture:
        assert (media, picture.format, picture.size) == ("image/png", "PNG", (40, 20))
        assert picture.getpixel((0, 0)) == (10, 20, 30)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(DataError):
        sent_picture(b"text", PixelLimits())


@given(SIDES, SIDES, st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_size_keeps_the_limits_wherever_a_pixel_can(
    width: int, height: int, one: int, other: int
) -> None:
    least, most = sorted((one, other))
    new_width, new_height = PixelLimits(least, most).size_of(width, height)
    area = width * height
    if area > most:
        assert new_width * new_height <= most or 1 in (new_width, new_height)
    elif area < least:
        assert new_width * new_height >= least
    else:
        assert (new_width, new_height) == (width, height)


def test_the_digest_is_of_the_words_and_of_the_pixels() -> None:
    digests = {shown_sha256(*what) for what in (("a", b"x"), ("b", b"x"), ("a", b"y"), ("ax", b""))}
    assert len(digests) == 4


def test_a_small_picture_is_a_jpeg_that_fits_a_page() -> None:
    with Image.open(io.BytesIO(small_picture(encoded("PNG", (4000, 1000))))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (384, 96))


@pytest.mark.parametrize(("least", "most"), [(0, None), (None, 0), (5, 4)])
def test_limits_that_nothing_can_keep_are_refused(least: int | None, most: int | None) -> None:
    with pytest.raises(ConfigError, match="Fix: "):
        checked_limits(least, most)
