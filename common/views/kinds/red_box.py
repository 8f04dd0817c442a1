"""The full picture with a red rectangle round the evidence, as the published set has it."""

from PIL import Image, ImageDraw

from common.errors import DataError
from common.types import Box, Sample
from common.views.regions import check_inside
from common.views.settings import ViewSettings
from common.views.view import Size, View


class RedBox(View):
    roles = frozenset({"student"})

    def size(self, sample: Sample, settings: ViewSettings) -> Size | None:
        return None if sample.box is None else super().size(sample, settings)

    def picture(
        self, opened: Image.Image, sample: Sample, settings: ViewSettings, seed: int
    ) -> Image.Image:
        if sample.box is None:
            raise DataError(f"sample {sample.sample_id} has no box to be drawn")
        return with_red_box(opened, sample.box, settings.red_box_pixels)


def with_red_box(
    picture: Image.Image, box: Box, line_pixels: int, colour: str = "red"
) -> Image.Image:
    """A copy with the line just outside the box, so that none of the evidence is under it.

    What of the line falls outside the picture is not seen.

    Args:
        colour: as Pillow's ImageColor reads it.

    Raises:
        DataError: the box reaches outside the picture.
    """
    check_inside(box, picture.size)
    drawn = picture.copy()
    outer = (
        box.x1 - line_pixels,
        box.y1 - line_pixels,
        box.x2 + line_pixels - 1,
        box.y2 + line_pixels - 1,
    )
    ImageDraw.Draw(drawn).rectangle(outer, outline=colour, width=line_pixels)
    return drawn


VIEW = RedBox()
