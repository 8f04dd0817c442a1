"""The pictures that a push is verified with: the same in every run, made without any file."""

import io

import numpy as np
from PIL import Image, ImageDraw

from common.pictures import decode_picture

_SIDE = 256  # pixels: of a size that most processors need not change
_PHOTOGRAPH = (317, 211)  # of one that none leaves alone
_ORIENTATION, _QUARTER_TURN = 0x0112, 6


def drawing() -> Image.Image:
    """A picture with structure at several scales that compresses well."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, _SIDE).astype(np.uint8)
    channels = [np.tile(ramp, (_SIDE, 1)), np.tile(ramp[:, None], (1, _SIDE))]
    channels.append(np.full((_SIDE, _SIDE), 128, dtype=np.uint8))
    picture = Image.fromarray(np.stack(channels, axis=-1))
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        x, y = rng.integers(0, _SIDE - 16, 2).tolist()
        width, height = rng.integers(8, 64, 2).tolist()
        draw.rectangle((x, y, x + width, y + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def photograph() -> Image.Image:
    """RGB, upright, out of a JPEG that has to be turned; detail at all scales, as in nature."""
    content = io.BytesIO()
    exif = Image.Exif()
    exif[_ORIENTATION] = _QUARTER_TURN
    _scenery().save(content, "JPEG", quality=90, exif=exif)
    return decode_picture(content.getvalue(), "of the probe")


def _scenery() -> Image.Image:
    """Noise whose amplitude falls with frequency, like that of photographs (1/f)."""
    rng = np.random.default_rng(1)
    width, height = _PHOTOGRAPH
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency
        noise = np.fft.irfft2(spectrum, s=(height, width))
        levels = 128 + 48 * noise / noise.std()
        channels.append(levels.clip(0, 255).astype(np.uint8))
    return Image.fromarray(np.stack(channels, axis=-1))
