"""What engines are given of pictures, kept for a while: a group may be tried again."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from common.types import ImageRef

_CACHE_BYTES = 64 * 2**20


class EngineImages:
    """Makes engine images by digest. Safe to use from several threads.

    Args:
        make: as `common.rendering.Renderer.engine_image`.
        cache_bytes: of encoded images kept, those used last.
    """

    def __init__(
        self, make: Callable[[bytes, ImageRef], bytes], cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self._make = make
        self._cache_bytes = cache_bytes
        self._used_bytes = 0
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, ref: ImageRef) -> bytes | None:
        with self._lock:
            if ref.sha256 in self._images:
                self._images.move_to_end(ref.sha256)
            return self._images.get(ref.sha256)

    def make(self, ref: ImageRef, content: bytes) -> bytes:
        """The engine's image of the file `content` behind `ref`. Raises DataError as `make`."""
        image = self._make(content, ref)
        with self._lock:
            self._used_bytes += len(image) - len(self._images.pop(ref.sha256, b""))
            self._images[ref.sha256] = image
            while self._used_bytes > self._cache_bytes and len(self._images) > 1:
                self._used_bytes -= len(self._images.popitem(last=False)[1])
        return image
