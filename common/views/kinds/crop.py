"""The evidence alone (paper, section 3): a ready crop, or the box cut out of the picture."""

from PIL import Image

from common.errors import DataError
from common.types import Box, ImageRef, Sample
from common.views.regions import evidence_cut, scaled_size, with_margin
from common.views.settings import ViewSettings
from common.views.view import Size, View


class Crop(View):
    roles = frozenset({"teacher"})

    def source(self, sample: Sample) -> ImageRef:
        return sample.image if sample.crop is None else sample.crop

    def size(self, sample: Sample, settings: ViewSettings) -> Size | None:
        if sample.crop is not None:
            return (sample.crop.width, sample.crop.height)
        return size_of_cut(sample, settings)

    def picture(
        self, opened: Image.Image, sample: Sample, settings: ViewSettings, seed: int
    ) -> Image.Image:
        if sample.crop is not None:
            return opened
        return evidence_cut(opened, _box(sample), settings.crop_margin, settings.crop_scale)


def region(sample: Sample, settings: ViewSettings) -> Box:
    """The evidence with its margin, in the full picture. Raises DataError where there is none."""
    size = (sample.image.width, sample.image.height)
    return with_margin(_box(sample), settings.crop_margin, size)


def size_of_cut(sample: Sample, settings: ViewSettings) -> Size | None:
    """Size of what is cut out round the box. None means that there is no box."""
    if sample.box is None:
        return None
    box = region(sample, settings)
    return scaled_size((box.x2 - box.x1, box.y2 - box.y1), settings.crop_scale)


def _box(sample: Sample) -> Box:
    if sample.box is None:
        raise DataError(f"sample {sample.sample_id} has neither a crop nor a box")
    return sample.box


VIEW = Crop()
