"""The image files of data sets, for machines without their folders."""

from collections.abc import Iterable

from broker import protocol as p
from broker.ledger.refusal import Refusal
from broker.service.handlers import Call, handles
from common.errors import DataError
from common.images import ImageStore
from common.types import ImageRef, Sample


class DatasetImages:
    """Image files by digest; nothing else can be asked for."""

    def __init__(self, store: ImageStore, samples: Iterable[Sample]) -> None:
        self._places: dict[str, tuple[ImageStore, ImageRef]] = {}
        self.add(store, samples)

    def add(self, store: ImageStore, samples: Iterable[Sample]) -> None:
        """Add another data set, whose files are in a folder of its own."""
        for sample in samples:
            for ref in (sample.image, sample.crop):
                if ref is not None:
                    self._places.setdefault(ref.sha256, (store, ref))

    @handles(p.GetImage)
    def get_image(self, request: p.GetImage, call: Call) -> p.ImageBytes:
        """Blocks while it reads: the server calls it in a thread."""
        return p.ImageBytes(content=self.read(request.sha256))

    def read(self, sha256: str) -> bytes:
        """Read the encoded file. Blocks.

        Raises:
            Refusal: not an image of the dataset, or its file is not what the dataset says.
        """
        if sha256 not in self._places:
            raise Refusal("unknown_image", f"{sha256} is not an image of this dataset")
        store, ref = self._places[sha256]
        try:
            return store.read_bytes(ref)
        except DataError as error:
            raise Refusal("unknown_image", str(error)) from error
