"""Any picture file -> the pixels that engine, student and teacher all see: upright 8-bit RGB.

Decoders disagree on much: SGLang 0.5.23 decodes JPEG with nvJPEG on a GPU and with Pillow on a CPU,
drops alpha, clips 16 bit and ignores orientation; viewers and annotators turn the picture. So the
rule is ours, it is applied here and nowhere else, and an engine is given its result:

    orientation    applied (EXIF, XMP, TIFF): boxes and sizes refer to the upright picture
    transparency   laid on white, as Qwen's own tools do
    16 bit         the upper eight bits, for grey as Pillow has it for colour
    grey, palette, 1 bit, CMYK, YCbCr    converted by Pillow; colour profiles are not applied
    several frames the first

Pixels without a natural range (float, 32-bit integers) are refused.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import DataError

# Pillow warns of damaged metadata, and of sizes that are bounded elsewhere: on people's terminals.
warnings.filterwarnings("ignore", module=r"PIL\.")
# What Pillow and its plugins raise for files that are damaged, hostile or unknown to them.
# ValueError: more than 1 MiB of compressed text in a PNG. SyntaxError: a damaged PNG.
DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError,
    OverflowError, ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
# Others are not even tried: some hand a file on to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_FORMATS_IN_WORDS = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = (5, 6, 7, 8)  # orientations that swap width and height
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_NATURAL_RANGE = ("I", "F")
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Chunks that change no pixel in any decoder; text is not among them, for Pillow may refuse it.
_PLAIN_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME")
_PLAIN_MODES = ("RGB", "L", "P", "1")
_PLAIN_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # how many frames is known from their headers


class Decoded(NamedTuple):
    picture: Image.Image  # upright, RGB
    format: str  # the file's format, one of FORMATS
    is_plain: bool  # viewers and decoders show these pixels, too: no rule of ours changed them


def decode_picture(content: bytes, name: str, said: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of an encoded file, upright, in mode RGB. Raises as `decode_file`."""
    return decode_file(content, name, said).picture


def decode_file(content: bytes, name: str, said: tuple[int, int] | None = None) -> Decoded:
    """What an encoded file holds.

    Args:
        name: the file's name, for errors.
        said: width and height that the upright picture must have; another one is not decoded.

    Raises:
        DataError: not a picture, damaged, too large to decode, or of pixels without a range.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if said is not None and file.size not in (said, said[::-1]):
                raise DataError(size_problem(file.size, said))
            file.load()  # metadata may stand behind the pixels
            orientation = _orientation_of(file)
            picture = _upright(_as_rgb(file), orientation)
            decoded = Decoded(picture, str(file.format), _is_plain(file, orientation))
    except DataError as error:
        raise DataError(f"image {name}: {error}") from error
    except DECODE_ERRORS as error:
        raise DataError(f"image {name} cannot be decoded: {reason_of(error)}") from error
    if said is not None and picture.size != said:
        raise DataError(f"image {name}: {size_problem(picture.size, said)}")
    return decoded


def header_size(path: Path, said: tuple[int, int]) -> tuple[int, int]:
    """The size in a regular file's header, as `header_size_of`; OSError if it cannot be opened."""
    with path.open("rb") as opened:
        return header_size_of(opened, said)


def header_size_of(opened: BinaryIO, said: tuple[int, int] | None = None) -> tuple[int, int]:
    """Width and height of the upright picture in an encoded file, without decoding the pixels.

    In a PNG the orientation may stand behind the pixels; it is looked for there only where `said`
    makes it likely.

    Raises:
        DataError: no picture, too large to decode, or of pixels without a range.
    """
    try:
        with Image.open(opened, formats=FORMATS) as file:
            _check_range(file.mode)
            seems_turned = said is not None and file.size != said and file.size == said[::-1]
            orientation = (_orientation_of if seems_turned else _early_orientation_of)(file)
            return file.size[::-1] if orientation in _SWAPPING else file.size
    except DataError:
        raise
    except DECODE_ERRORS as error:
        raise DataError(f"cannot be decoded: {reason_of(error)}") from error


def size_problem(found: tuple[int, int], said: tuple[int, int]) -> str:
    """Words for a picture that is not of the size that its row says, with the fix."""
    fix = "give the size of the file that is there"
    if found == said[::-1]:
        fix = (
            "sizes and boxes refer to the upright picture, after its EXIF orientation is applied: "
            "give width and height, and the box, as a viewer shows it"
        )
    return f"the picture is {found}, not {said}. Fix: {fix}"


def reason_of(error: BaseException) -> str:
    """One line about what Pillow raised, with a fix."""
    if isinstance(error, UnidentifiedImageError):  # whose words name a place in memory
        return f"it is no {_FORMATS_IN_WORDS} file. Fix: save it as PNG or JPEG"
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    return f"{reason}. Fix: save it anew, as PNG or JPEG"


def encode_png(picture: Image.Image) -> bytes:
    """A file from which every decoder reads these very pixels (8-bit RGB)."""
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)  # others take several times as long
    return content.getvalue()


def is_plain_png(content: bytes) -> bool:
    """Whether a file is what `encode_png` makes, but for compression: 8-bit RGB and no metadata.

    Every decoder reads the same pixels from such a file, so it needs no new encoding.
    """
    if not content.startswith(_PNG_START):
        return False
    place = len(_PNG_START)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind not in _PLAIN_CHUNKS:
            return False
        if kind == b"IHDR" and content[place + 16 : place + 21] != b"\x08\x02\x00\x00\x00":
            return False  # bit depth, colour type, compression, filter, interlace
        place += 12 + length
        if kind == b"IEND":
            return bool(place == len(content))
    return False


def _is_plain(file: Image.Image, orientation: int) -> bool:
    if file.format not in _PLAIN_FORMATS or getattr(file, "n_frames", 1) != 1:
        return False
    is_opaque = file.mode in _PLAIN_MODES and not file.has_transparency_data
    return is_opaque and orientation not in _TURNS


def _as_rgb(file: Image.Image) -> Image.Image:
    _check_range(file.mode)
    if file.mode in _SIXTEEN_BITS:
        return _from_sixteen_bits(file)
    if file.has_transparency_data:
        return _on_white(file.convert("RGBA"))
    return file.convert("RGB")


def _check_range(mode: str) -> None:
    if mode in _NO_NATURAL_RANGE:
        raise DataError(
            f"its pixels are {'floats' if mode == 'F' else '32-bit integers'}, which have no "
            "natural range. Fix: scale it to 8 bits a channel"
        )


def _from_sixteen_bits(file: Image.Image) -> Image.Image:
    grey_HW = np.asarray(file).astype(np.uint16)
    picture = Image.fromarray((grey_HW >> 8).astype(np.uint8)).convert("RGB")
    hidden = file.info.get("transparency")  # the grey value of a PNG that is transparent
    if isinstance(hidden, int):
        visible_HW = np.where(grey_HW == hidden, 0, 255).astype(np.uint8)
        picture.putalpha(Image.fromarray(visible_HW))
        return _on_white(picture)
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")


def _early_orientation_of(file: Image.Image) -> int:
    """`_orientation_of` by what stands before the pixels: a PNG's own method decodes it."""
    return _orientation_of(file, Image.Image.getexif)


def _orientation_of(
    file: Image.Image,
    metadata_of: Callable[[Any], Image.Exif] = lambda file: file.getexif(),
) -> int:
    """The orientation of a picture; 1 where no metadata can be read that says otherwise."""
    try:
        found = metadata_of(file).get(_ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1  # viewers pass over damaged metadata, too
    return found if isinstance(found, int) else 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)
