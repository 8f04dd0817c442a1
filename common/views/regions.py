"""Boxes and the parts of pictures inside them: pure functions."""

import numpy as np
from PIL import Image

from common.errors import DataError
from common.types import Box


def with_margin(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """`box` widened by `margin` of its sides, shifted (not shrunk) to stay inside the picture."""
    check_inside(box, size)
    x1, x2 = _widen(box.x1, box.x2, margin, size[0])
    y1, y2 = _widen(box.y1, box.y2, margin, size[1])
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def check_inside(box: Box, size: tuple[int, int]) -> None:
    """Refuse a box that is not inside a picture, with a DataError."""
    width, height = size
    if box.x2 > width or box.y2 > height:
        raise DataError(f"box {box} reaches outside the {width} x {height} picture")


def moved_at_random(box: Box, size: tuple[int, int], seed: int) -> Box:
    """A box of the same size at a uniformly random place."""
    rng = np.random.default_rng(seed)
    x1 = int(rng.integers(0, size[0] - (box.x2 - box.x1) + 1))
    y1 = int(rng.integers(0, size[1] - (box.y2 - box.y1) + 1))
    return Box(x1=x1, y1=y1, x2=x1 + box.x2 - box.x1, y2=y1 + box.y2 - box.y1)


def evidence_cut(picture: Image.Image, box: Box, margin: float, scale: float) -> Image.Image:
    """The teacher's crop (paper section 3): `box` and its margin, enlarged. Raises DataError."""
    return cut(picture, with_margin(box, margin, picture.size), scale)


def cut(picture: Image.Image, box: Box, scale: float) -> Image.Image:
    """The part of `picture` inside `box`, enlarged by `scale` (bicubic)."""
    crop = picture.crop((box.x1, box.y1, box.x2, box.y2))
    if scale == 1:
        return crop
    return crop.resize(scaled_size(crop.size, scale), Image.Resampling.BICUBIC)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides of a cut that is enlarged by `scale`: at least a pixel each way."""
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def _widen(low: int, high: int, margin: float, limit: int) -> tuple[int, int]:
    length = min(limit, round((high - low) * (1 + 2 * margin)))
    start = min(max(0, low - round((high - low) * margin)), limit - length)
    return start, start + length
