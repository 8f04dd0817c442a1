"""The files behind image references: from the dataset's folder, or from the broker without one."""

import asyncio
from pathlib import Path

from broker.client import BrokerClient, RequestRefused
from common.errors import DataError
from common.images import ImageStore
from common.types import ImageRef
from rollout.engine import CutShort


class ImageFiles:
    """The files behind image references: from the dataset's folder, or from the broker.

    Args:
        dataset: the Parquet file that the paths are beside; it may be on other machines alone.
    """

    def __init__(self, dataset: Path | None, broker: BrokerClient) -> None:
        is_here = dataset is not None and dataset.parent.is_dir()
        self._store = ImageStore(dataset.parent) if is_here and dataset is not None else None
        self._broker = broker

    async def read(self, ref: ImageRef) -> bytes:
        """The content of the file behind a reference.

        Raises:
            DataError: missing, or other content than `ref` says.
            CutShort: the broker has no time for it.
        """
        if self._store is not None:
            return await asyncio.to_thread(self._store.read_bytes, ref)
        try:
            return await self._broker.image(ref.sha256)
        except RequestRefused as error:
            if error.code != "unknown_image":  # the broker is busy or in trouble
                raise CutShort(f"image {ref.path}: {error}") from error
            raise DataError(f"image {ref.path}: {error}") from error
