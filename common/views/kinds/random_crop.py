"""A part of the evidence's size from a random place: a control, which teaches nothing."""

from PIL import Image

from common.types import Sample
from common.views.kinds.crop import region, size_of_cut
from common.views.regions import cut, moved_at_random
from common.views.settings import ViewSettings
from common.views.view import Size, View


class RandomCrop(View):
    roles = frozenset({"teacher"})
    is_seeded = True

    def size(self, sample: Sample, settings: ViewSettings) -> Size | None:
        return size_of_cut(sample, settings)

    def picture(
        self, opened: Image.Image, sample: Sample, settings: ViewSettings, seed: int
    ) -> Image.Image:
        box = moved_at_random(region(sample, settings), opened.size, seed)
        return cut(opened, box, settings.crop_scale)


VIEW = RandomCrop()
