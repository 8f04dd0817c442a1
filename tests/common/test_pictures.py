"""The rule of common/pictures.py, format by format, with the right values."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.errors import DataError
from common.images import picture_of
from common.pictures import decode_picture, encode_png, is_plain_png
from common.types import ImageRef

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def corners() -> Image.Image:
    """6 x 4: red in the upper left corner, green in the upper right, blue in the lower left."""
    picture = Image.new("RGB", (6, 4), WHITE)
    picture.putpixel((0, 0), RED)
    picture.putpixel((5, 0), GREEN)
    picture.putpixel((0, 3), BLUE)
    return picture


def stored_as(picture: Image.Image, orientation: int) -> Image.Image:
    """The pixels of a file with this orientation that shows `picture`."""
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    return picture if undo is None else picture.transpose(undo)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def pixels(content: bytes) -> np.ndarray:
    picture = decode_picture(content, "x")
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(stored_as(corners(), orientation), kind, exif=exif(orientation), **options)
    assert np.array_equal(pixels(content), np.asarray(corners()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg_is_applied(orientation: int) -> None:
    shown = corners().resize((48, 32), Image.Resampling.NEAREST)
    content = encoded(stored_as(shown, orientation), "JPEG", exif=exif(orientation), quality=95)
    difference = np.abs(pixels(content).astype(int) - np.asarray(shown))
    assert difference.shape == (32, 48, 3) and difference.mean() < 6


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
def test_damaged_exif_leaves_the_picture_as_it_is() -> None:
    content = encoded(corners(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(pixels(content), np.asarray(corners()))


def test_pillows_warnings_stay_off_the_terminal(tmp_path: Path) -> None:
    content = encoded(corners(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    (tmp_path / "a.png").write_bytes(content)
    code = (
        "import sys, pathlib; from common.pictures import decode_picture, header_size;"
        "path = pathlib.Path(sys.argv[1]);"
        "decode_picture(path.read_bytes(), 'a'); header_size(path, (6, 4))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    ended = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert ended.stdout == ended.stderr == ""


@pytest.mark.parametrize(
    ("mode", "colour"),
    [("RGBA", (255, 0, 0, 0)), ("RGBA", (0, 0, 0, 0)), ("LA", (0, 0)), ("LA", (200, 0))],
)
def test_what_is_transparent_is_white(mode: str, colour: tuple[int, ...]) -> None:
    assert (pixels(encoded(Image.new(mode, (3, 2), colour))) == 255).all()


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    found = pixels(encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 128))))
    assert np.array_equal(found, np.full((2, 3, 3), (255, 127, 127)))


def test_the_transparent_colour_of_a_palette_is_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    assert pixels(encoded(picture, transparency=0)).tolist() == [[list(WHITE), list(BLUE)]]
    assert pixels(encoded(picture)).tolist() == [[list(RED), list(BLUE)]]


def test_a_transparent_colour_key_is_white() -> None:
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), BLUE)
    found = pixels(encoded(picture, transparency=RED))
    assert found.tolist() == [[list(WHITE), list(BLUE)]]


def test_sixteen_bit_grey_is_scaled() -> None:
    ramp = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    found = pixels(encoded(Image.fromarray(ramp)))
    assert found[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_is_scaled(byte_order: str) -> None:
    ramp = np.array([[0, 256, 65535]], dtype=byte_order)
    found = pixels(encoded(Image.fromarray(ramp), "TIFF"))
    assert found[0, :, 0].tolist() == [0, 1, 255]


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    ramp = np.array([[1000, 40000]], dtype=np.uint16)
    plain = encoded(Image.fromarray(ramp))
    end_of_header = plain.index(b"IHDR") + 4 + 13 + 4
    body = b"tRNS" + struct.pack(">H", 40000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    content = plain[:end_of_header] + chunk + plain[end_of_header:]
    assert pixels(content)[0, :, 0].tolist() == [1000 >> 8, 255]


def test_sixteen_bit_colour_is_scaled_alike() -> None:
    """Pillow takes the upper byte of each channel; written by hand, since it writes none."""
    row = b"\x00" + struct.pack(">6H", 0, 256, 65535, 32768, 511, 1)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row)), (b"IEND", b""),
    ]  # fmt: skip
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    assert pixels(content).tolist() == [[[0, 1, 255], [128, 1, 0]]]


def test_one_bit_grey_and_palette_become_rgb() -> None:
    one_bit = Image.new("1", (2, 1))
    one_bit.putpixel((1, 0), 1)
    assert pixels(encoded(one_bit)).tolist() == [[[0, 0, 0], list(WHITE)]]
    assert pixels(encoded(Image.new("L", (1, 1), 77))).tolist() == [[[77, 77, 77]]]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jpegs_of_all_kinds_are_those_of_pillow(options: dict) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    for mode in ("RGB", "L", "CMYK"):
        content = encoded(picture.convert(mode), "JPEG", quality=90, **options)
        expected = Image.open(io.BytesIO(content)).convert("RGB")
        assert np.array_equal(pixels(content), np.asarray(expected))


def test_white_stays_white_in_cmyk() -> None:
    content = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert (pixels(content) > 250).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_counts(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(pixels(content), np.asarray(frames[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused(dtype: type) -> None:
    content = encoded(Image.fromarray(np.ones((2, 2), dtype=dtype)), "TIFF")
    with pytest.raises(DataError, match=r"x: its pixels are .* natural range. Fix: scale"):
        decode_picture(content, "x")


def long_text() -> bytes:
    """A valid PNG with the text that picture editors write, which Pillow refuses."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("workflow", "x" * (2**20 + 1), zip=True)
    return encoded(corners(), pnginfo=info)


def damaged() -> bytes:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    content = bytearray(encoded(picture))
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(50), long_text(), damaged(),
     encoded(corners(), "JPEG")[:200], encoded(corners())[:60]],
    ids=["empty", "text", "no PNG", "long text", "damaged", "cut JPEG", "cut PNG"],
)  # fmt: skip
def test_what_cannot_be_decoded_is_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"image some\.png cannot be decoded: .* Fix: ") as caught:
        decode_picture(content, "some.png")
    assert " at 0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_no_bytes_do_worse_than_a_data_error(tail: bytes, kind: str) -> None:
    content = encoded(corners(), kind)
    for candidate in (tail, content[: len(content) // 2] + tail, content + tail):
        with contextlib.suppress(DataError):
            assert decode_picture(candidate, "x").mode == "RGB"


def test_encoding_keeps_every_pixel() -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (33, 47, 3), dtype=np.uint8))
    content = encode_png(picture)
    assert is_plain_png(content)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(picture))


def test_only_a_file_that_all_decoders_read_alike_is_plain() -> None:
    plain = corners()
    assert is_plain_png(encoded(plain)) and is_plain_png(encoded(plain, dpi=(72, 72)))
    others = [
        encoded(plain, exif=exif(6)), encoded(plain, icc_profile=b"profile"),
        encoded(plain.convert("RGBA")), encoded(plain.convert("L")), encoded(plain.convert("P")),
        encoded(plain, transparency=RED), encoded(plain, "JPEG"), encoded(plain, "WEBP"),
        encoded(plain, save_all=True, append_images=[Image.new("RGB", (6, 4))]),
        long_text(), encoded(plain)[:-1], encoded(plain) + b"\0", b"",
    ]  # fmt: skip
    assert not any(map(is_plain_png, others))


def test_a_size_before_turning_is_explained(tmp_path: Path) -> None:
    content = encoded(stored_as(corners(), 6), exif=exif(6))
    ref = ImageRef(sha256="0" * 64, path="p.jpg", width=4, height=6)
    with pytest.raises(DataError, match=r"p\.jpg: .* is \(6, 4\), not \(4, 6\).*EXIF orientation"):
        picture_of(ref, content)
    assert picture_of(ref.model_copy(update={"width": 6, "height": 4}), content).size == (6, 4)
