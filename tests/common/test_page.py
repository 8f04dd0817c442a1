"""common.page: what stands in a page is shown, never obeyed."""

import io

import pytest
from PIL import Image

from common.page import page, picture_kind, picture_url, picture_with_box, small_jpeg, table, tile


def test_texts_are_escaped() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    for made in (page(hostile, ""), tile(hostile, hostile, hostile), table([hostile], [[hostile]])):
        assert "<img" not in made and "&lt;img" in made
    assert "<img" not in picture_with_box(None, (4, 3), None, hostile)


def test_a_page_asks_the_browser_to_fetch_and_run_nothing() -> None:
    made = page("a", "<p>b</p>", ".c{}")
    assert "default-src 'none'; img-src data:" in made and "<script" not in made
    assert "url(" not in made and "@import" not in made and made.index(".c{}") < made.index("<p>b")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "GIF", "BMP"])
def test_the_kind_of_a_picture_is_told_by_its_beginning(kind: str) -> None:
    Image.new("RGB", (4, 3)).save(file := io.BytesIO(), kind)
    assert picture_kind(file.getvalue()) == kind.lower()


@pytest.mark.parametrize("content", [b"RIFF\x24\0\0\0WAVEfmt ", b"GIF8xx", b"", b"RIFF"])
def test_another_file_is_no_picture(content: bytes) -> None:
    assert picture_kind(content) is None


def test_what_is_no_picture_gets_no_url() -> None:
    assert picture_url(b"<svg onload=alert(1)>") is None
    jpeg = small_jpeg(Image.new("RGB", (64, 48)))
    url = picture_url(jpeg)
    assert url is not None and url.startswith("data:image/jpeg;base64,")


def test_a_small_jpeg_keeps_the_shape_and_never_grows() -> None:
    for size, expected in (((2000, 500), (640, 160)), ((64, 48), (64, 48))):
        with Image.open(io.BytesIO(small_jpeg(Image.new("RGB", size)))) as picture:
            assert picture.size == expected and picture.format == "JPEG"


def test_a_box_is_drawn_in_the_pixels_it_counts() -> None:
    drawn = picture_with_box("data:,", (2000, 1000), (100, 200, 400, 300), "a picture")
    assert 'viewBox="0 0 2000 1000"' in drawn
    assert 'x="100" y="200" width="300" height="100"' in drawn
    assert "<rect" not in picture_with_box("data:,", (2000, 1000), None, "a picture")
