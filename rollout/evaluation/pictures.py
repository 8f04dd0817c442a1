"""RESULT/pictures: a small JPEG of each picture that was asked about, for the pages."""

import asyncio
import hashlib
import threading
from pathlib import Path

from common.errors import DataError
from common.files import replacing
from rollout.evaluation.questions import small_picture

FOLDER = "pictures"
_MOST = 4000  # later items have no picture, so that a result stays small


class SmallPictures:
    """The folder with the pictures of one result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left = _MOST
        self._names: dict[str, str | None] = {}

    async def name_of(self, picture: bytes) -> str | None:
        """Path relative to the result's folder; None for what is no picture."""
        digest = hashlib.sha256(picture).hexdigest()
        if digest not in self._names:
            self._left -= 1
            is_wanted = self._left >= 0
            self._names[digest] = (
                await asyncio.to_thread(self._kept, picture, digest) if is_wanted else None
            )
        return self._names[digest]

    def _kept(self, picture: bytes, digest: str) -> str | None:
        name = f"{FOLDER}/{digest[:32]}.jpg"
        path = self._folder / name
        try:
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                content = small_picture(picture)
                with replacing(path, str(threading.get_ident())) as part:
                    part.write_bytes(content)
        except (DataError, OSError):  # the page says that there is none
            return None
        return name
