"""Images by content: the wire carries sha256 and size, the bytes come from the dataset folder."""

import hashlib
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from common.errors import DataError
from common.pictures import decode_picture
from common.types import ImageRef


class ImageStore:
    """Reads and verifies image files, with a cache of decoded pictures bounded in bytes."""

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
        try:
            path = (self._folder / ref.path).resolve()
        except (OSError, ValueError) as error:  # NUL in it, a ring of links
            raise DataError(f"image {ref.path!r} is no path: {error}. Fix: mend the row") from error
        if not path.is_relative_to(self._folder.resolve()):
            raise DataError(f"image {ref.path} lies outside the dataset folder {self._folder}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"image {path}: {error.strerror}. Fix: restore the file") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != ref.sha256:
            raise DataError(f"image {path}: sha256 is {digest[:12]}..., not {ref.sha256[:12]}...")
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
    picture = decode_picture(content, ref.path)
    said = (ref.width, ref.height)
    if picture.size != said:
        raise DataError(
            f"image {ref.path} is {picture.size}, not {said}. {_size_mend(said, picture)}"
        )
    return picture


def _size_mend(said: tuple[int, int], picture: Image.Image) -> str:
    if said[::-1] == picture.size:
        return (
            "Fix: sizes and boxes refer to the upright picture, after its EXIF orientation is "
            "applied: give width and height, and the box, as a viewer shows it"
        )
    return "Fix: give the size of the file that is there"


def _num_bytes(picture: Image.Image) -> int:
    return picture.width * picture.height * 3
