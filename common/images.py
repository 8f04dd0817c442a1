"""Images by content: the wire carries sha256 and size, the bytes come from the dataset folder.

A path must stay in that folder as it is written. Links in the folder are its owner's, and followed.
"""

import hashlib
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from common.dataset_paths import leaves
from common.errors import DataError
from common.pictures import decode_picture
from common.types import ImageRef


class ImageStore:
    """The image files of a folder, read and verified; a bounded cache of decoded pictures."""

    def __init__(self, folder: Path, cache_bytes: int = 256 * 2**20) -> None:
        self._folder = folder
        self._cache: OrderedDict[str, Image.Image] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._used_bytes = 0

    def read_bytes(self, ref: ImageRef) -> bytes:
        """The encoded file behind `ref`.

        Raises:
            DataError: missing, outside the dataset folder, or other content than `ref` says.
        """
        path = self._folder / ref.path
        if leaves(ref.path, self._folder):
            raise DataError(f"image {ref.path!r} lies outside the dataset folder {self._folder}")
        try:
            if not path.is_file():  # a folder, or a pipe, which would be waited for
                raise DataError(f"image {path}: there is no such file. Fix: restore it")
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"image {path}: {reason}. Fix: restore the file") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != ref.sha256:
            raise DataError(
                f"image {path}: sha256 is {digest[:12]}..., not {ref.sha256[:12]}... Fix: restore "
                "the file that the row was written for, or write its digest anew"
            )
        return content

    def open(self, ref: ImageRef) -> Image.Image:
        """The picture behind `ref`, upright, RGB. Do not change it: it is shared.

        Raises:
            DataError: as `read_bytes` and `picture_of`.
        """
        if ref.sha256 in self._cache:
            self._cache.move_to_end(ref.sha256)
            return self._cache[ref.sha256]
        picture = picture_of(ref, self.read_bytes(ref))
        self._remember(ref.sha256, picture)
        return picture

    def _remember(self, digest: str, picture: Image.Image) -> None:
        self._cache[digest] = picture
        self._used_bytes += _num_bytes(picture)
        while self._used_bytes > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._used_bytes -= _num_bytes(dropped)


def picture_of(ref: ImageRef, content: bytes) -> Image.Image:
    """The picture in the bytes behind `ref`, upright, RGB.

    Raises:
        DataError: not a picture, or not of the size that `ref` says.
    """
    return decode_picture(content, ref.path, (ref.width, ref.height))


def _num_bytes(picture: Image.Image) -> int:
    return picture.width * picture.height * 3
