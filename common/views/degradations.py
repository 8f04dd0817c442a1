"""Ways to make a picture worse: seeded, of a stated strength, in 8-bit arithmetic of Pillow."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from common.views.settings import ViewSettings

_Degrade = Callable[[Image.Image, float, np.random.Generator], Image.Image]
# At strength 1.
_SMALLEST = 8.0  # times smaller, and enlarged again
_BLUR_SHARE = 0.02  # radius, of the shorter side
_NOISE = 80.0  # levels of 255, standard deviation
_ERASED = 0.5  # share of the squares that are erased
_SQUARES = 8  # squares a side, of which some are erased
_GREY = 128


class Degradation(NamedTuple):
    """A degradation that a seed has drawn."""

    name: str
    strength: float  # above 0, at most 1
    seed: int

    def apply(self, picture: Image.Image) -> Image.Image:
        rng = np.random.default_rng([self.seed, 1])  # stream 0 has drawn name and strength
        return DEGRADATIONS[self.name](picture, self.strength, rng)

    def __str__(self) -> str:
        return f"{self.name} {self.strength:.2f}"


def draw_degradation(settings: ViewSettings, seed: int) -> Degradation:
    rng = np.random.default_rng([seed, 0])
    name = settings.degradations[int(rng.integers(len(settings.degradations)))]
    return Degradation(name, settings.degradation_strength * float(rng.uniform(0.5, 1.0)), seed)


def _shrunk(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Shrink to fewer pixels, and enlarge again."""
    factor = 1 + (_SMALLEST - 1) * strength
    small = (max(1, round(picture.width / factor)), max(1, round(picture.height / factor)))
    less = picture.resize(small, Image.Resampling.BICUBIC)
    return less.resize(picture.size, Image.Resampling.BICUBIC)


def _blurred(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    radius = _BLUR_SHARE * strength * min(picture.size)
    return picture.filter(ImageFilter.GaussianBlur(radius))


def _noisy(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(_NOISE * strength)
    return Image.fromarray(np.rint(pixels + noise).clip(0, 255).astype(np.uint8))


def _compressed(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Compress by JPEG, and decode again."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=max(1, round(40 * (1 - strength))))
    with Image.open(content) as decoded:
        return decoded.convert("RGB")


def _erased(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Make some squares of a grid grey."""
    pixels = np.array(picture)
    is_erased = rng.random((_SQUARES, _SQUARES)) < _ERASED * strength
    rows = np.arange(picture.height) * _SQUARES // picture.height
    columns = np.arange(picture.width) * _SQUARES // picture.width
    pixels[is_erased[rows][:, columns]] = _GREY
    return Image.fromarray(pixels)


DEGRADATIONS: dict[str, _Degrade] = {
    "shrink": _shrunk,
    "blur": _blurred,
    "noise": _noisy,
    "jpeg": _compressed,
    "erase": _erased,
}
