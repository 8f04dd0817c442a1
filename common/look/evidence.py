"""The teacher's view that the sheet shows: the evidence crop, as published and by default."""

from PIL import Image

from common.config import RunConfig
from common.images import ImageStore
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings

_SETTINGS = ViewSettings.of(RunConfig()).measuring()
_VIEW = view_named(_SETTINGS.teacher)
SCALE = _SETTINGS.crop_scale  # enlargement of a crop that is cut out here


def evidence_size(sample: Sample) -> tuple[int, int] | None:
    """Width and height, as the row says; None means that it has neither box nor crop."""
    return _VIEW.size(sample, _SETTINGS)


def evidence_picture(sample: Sample, images: ImageStore) -> Image.Image:
    """The evidence of a sample that has some, in RGB.

    Raises:
        DataError: an image that cannot be read.
    """
    return _VIEW.picture(images.open(_VIEW.source(sample)), sample, _SETTINGS, seed=0)
