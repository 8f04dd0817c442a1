"""The pictures of a request: which files are decoded, and how large they may be."""

import io

from PIL import Image

from common.pictures import DECODE_ERRORS
from rollout.embedded.requests import BadRequest

# Pillow knows dozens more, some with decoders written for files that one trusts.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 80_000_000  # 240 MB once decoded; a few KB of PNG can say so


def decode(content: bytes, number: int) -> Image.Image:
    """Decode a picture to SGLang's pixels on a CPU: as stored, alpha dropped.

    Our worker sends pictures for which neither matters.

    Args:
        number: the picture's place in its request, for errors.

    Raises:
        BadRequest: it is of no known format, damaged, or too large; that is seen in its header.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise BadRequest(
                    f"picture {number} has {file.width} x {file.height} pixels, more than "
                    f"{MAX_PIXELS}. Fix: make it smaller"
                )
            return file.convert("RGB")
    except BadRequest:
        raise
    except DECODE_ERRORS as error:
        raise BadRequest(f"picture {number} cannot be decoded: {error}") from error
