"""What is sent for an item: its prompt and the picture of the view that is asked about.

A picture goes as the bytes that the set has, as in the published harness. Only where limits are
set, or an API does not take its format, is it decoded and sent as a PNG.
"""

import base64
import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from common.errors import ConfigError
from common.page import picture_kind, small_jpeg
from common.pictures import decode_picture, encode_png

View = Literal["full", "crop"]
_TAKEN = ("png", "jpeg", "webp", "gif")  # formats that every such API takes
_SMALL_SIDE = 384  # pixels; enough to see on a page what an item is about


@dataclass(frozen=True)
class PixelLimits:
    """Limits of the pixels that a picture is sent with; None means no limit."""

    least: int | None = None
    most: int | None = None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in which a picture of this size is sent, of nearly the same shape."""
        area = width * height
        if self.most is not None and area > self.most:
            by = math.sqrt(self.most / area)
            return max(1, math.floor(width * by)), max(1, math.floor(height * by))
        if self.least is not None and area < self.least:
            by = math.sqrt(self.least / area)
            return math.ceil(width * by), math.ceil(height * by)
        return width, height


def shown_sha256(text: str, picture: bytes) -> str:
    """Digest of what a model is asked: the prompt and the picture, before any limit."""
    return hashlib.sha256(hashlib.sha256(picture).digest() + text.encode()).hexdigest()


def data_url(picture: bytes, limits: PixelLimits) -> str:
    """A picture as a request carries it. Raises DataError: as `sent_picture`."""
    content, kind = sent_picture(picture, limits)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sent_picture(content: bytes, limits: PixelLimits) -> tuple[bytes, str]:
    """A picture's bytes as they are sent, and their media type.

    Raises:
        DataError: it cannot be decoded where it has to be.
    """
    kind = picture_kind(content)
    is_taken = kind in _TAKEN
    if is_taken and limits == PixelLimits():
        return content, f"image/{kind}"
    picture = decode_picture(content, "the item's picture")
    size = limits.size_of(*picture.size)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    elif is_taken:
        return content, f"image/{kind}"
    return encode_png(picture), "image/png"


def small_picture(content: bytes) -> bytes:
    """A JPEG of it for pages. Raises DataError."""
    return small_jpeg(decode_picture(content, "the item's picture"), _SMALL_SIDE)


def checked_limits(least: int | None, most: int | None) -> PixelLimits:
    """The limits of a picture's pixels; ConfigError if they contradict one another."""
    for name, value in (("--min-pixels", least), ("--max-pixels", most)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value}: not a number of pixels. Fix: 1 or more")
    if least is not None and most is not None and least > most:
        raise ConfigError(f"--min-pixels {least} is above --max-pixels {most}. Fix: exchange them")
    return PixelLimits(least, most)
