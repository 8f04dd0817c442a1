"""What SGLang may take for a picture, a film or a sound: launch.py reads this file by its path.

They come in the request, as data URLs. SGLang would open paths with its owner's rights, and fetch
URLs from wherever it can reach.
"""

import io
import sys
from collections.abc import Callable
from typing import Any

# As rollout/embedded/pictures.py has them.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 80_000_000


def take_no_files(may_fetch: bool) -> None:
    """Make SGLang so in this process, which is the one that reads requests.

    Args:
        may_fetch: http(s) URLs are left to SGLang's list of allowed hosts.
    """
    from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
    from sglang.srt.utils import common

    allowed = ("data:", "http://", "https://") if may_fetch else ("data:",)
    for request in (GenerateReqInput, EmbeddingReqInput):
        request.normalize_batch_and_arguments = _with_check(
            request.normalize_batch_and_arguments, allowed
        )
    read = common.get_image_bytes

    def read_from_the_request(image: str | bytes) -> bytes:
        _check_source(image, allowed)
        content: bytes = read(image)
        _check_picture(content)
        return content

    # Modules have imported it by name, more will.
    for module in list(sys.modules.values()):
        if vars(module).get("get_image_bytes") is read:
            module.get_image_bytes = read_from_the_request  # type: ignore[attr-defined]


def _with_check(normalize: Callable[[Any], Any], allowed: tuple[str, ...]) -> Callable[[Any], Any]:
    def checked(request: Any) -> Any:
        for kind in ("image_data", "video_data", "audio_data"):
            _check_source(getattr(request, kind, None), allowed)
        return normalize(request)

    return checked


def _check_source(media: Any, allowed: tuple[str, ...]) -> None:
    """Refuse what the server would fetch or open: ValueError, which it answers with HTTP 400."""
    if isinstance(media, list | tuple):
        for item in media:
            _check_source(item, allowed)
        return
    source = getattr(media, "url", media)
    if source is None or isinstance(source, bytes):
        return
    if not isinstance(source, str) or not source.startswith(allowed):
        raise ValueError(
            "media are taken as data URLs alone: no paths, other URLs or bare base64. "
            "Fix: data:image/png;base64,...; --allowed-media-domains HOST lets the server fetch"
        )


def _check_picture(content: bytes) -> None:
    """What its header says of its format and size, before it is decoded. Raises ValueError."""
    from PIL import Image, UnidentifiedImageError

    known = ", ".join(PICTURE_FORMATS)
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
    except UnidentifiedImageError as error:  # whose words name a place in memory
        raise ValueError(f"it is none of {known}") from error
    except Exception as error:  # a plugin's error may be of any type
        raise ValueError(f"it is none of {known}: {error}") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS}")
