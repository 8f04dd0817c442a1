"""The same scene as files of every kind that people have."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB with soft and sharp parts, so that turning, scaling and dropping alpha all show."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    soft = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    sharp = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height // 2))
    return Image.composite(sharp, soft, mask)


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def _turned(picture: Image.Image, kind: str, orientation: int, turn: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(picture.transpose(turn), kind, exif=exif, quality=90)


def _with_alpha(picture: Image.Image) -> Image.Image:
    """Half of it transparent, with colours of its own underneath."""
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, picture.width // 2, picture.height))
    clear = picture.copy()
    clear.putalpha(alpha.filter(ImageFilter.GaussianBlur(4)))
    return clear


def _sixteen_bits(picture: Image.Image) -> Image.Image:
    grey_HW = np.asarray(picture.convert("L")).astype(np.uint16)
    return Image.fromarray(grey_HW * 257)


_PROFILE = b"\0" * 128  # of no meaning: profiles are not applied
_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "png": lambda p: _saved(p, "PNG"),
    "png palette": lambda p: _saved(p.quantize(64), "PNG"),
    "png alpha": lambda p: _saved(_with_alpha(p), "PNG"),
    "png grey alpha": lambda p: _saved(_with_alpha(p).convert("LA"), "PNG"),
    "png palette transparent": lambda p: _saved(p.quantize(64), "PNG", transparency=3),
    "png 16 bit": lambda p: _saved(_sixteen_bits(p), "PNG"),
    "png 1 bit": lambda p: _saved(p.convert("1"), "PNG"),
    "png turned": lambda p: _turned(p, "PNG", 3, Image.Transpose.ROTATE_180),
    "png frames": lambda p: _saved(p, "PNG", save_all=True, append_images=[p.rotate(180)]),
    "jpeg": lambda p: _saved(p, "JPEG", quality=90),
    "jpeg 4:4:4": lambda p: _saved(p, "JPEG", quality=95, subsampling=0),
    "jpeg progressive": lambda p: _saved(p, "JPEG", quality=85, progressive=True),
    "jpeg grey": lambda p: _saved(p.convert("L"), "JPEG", quality=90),
    "jpeg cmyk": lambda p: _saved(p.convert("CMYK"), "JPEG", quality=90),
    "jpeg turned 3": lambda p: _turned(p, "JPEG", 3, Image.Transpose.ROTATE_180),
    "jpeg turned 6": lambda p: _turned(p, "JPEG", 6, Image.Transpose.ROTATE_90),
    "jpeg profile": lambda p: _saved(p, "JPEG", quality=90, icc_profile=_PROFILE),
    "webp": lambda p: _saved(p, "WEBP", quality=80),
    "webp alpha": lambda p: _saved(_with_alpha(p), "WEBP", lossless=True),
    "gif": lambda p: _saved(p.quantize(64), "GIF"),
    "gif frames": lambda p: _saved(p, "GIF", save_all=True, append_images=[p.rotate(180)]),
    "tiff": lambda p: _saved(p, "TIFF"),
    "tiff 16 bit": lambda p: _saved(_sixteen_bits(p), "TIFF"),
    "bmp": lambda p: _saved(p, "BMP"),
}
KINDS = tuple(_KINDS)


def picture_file(kind: str, width: int, height: int) -> bytes:
    """A file that shows `scene`, upright."""
    return _KINDS[kind](scene(width, height))
