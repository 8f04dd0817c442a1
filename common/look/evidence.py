"""The teacher's view that the sheet shows: the evidence crop, as published and by default."""

from PIL import Image

from common.config import TeacherSection
from common.images import ImageStore
from common.types import Sample
from common.views import teacher_size, teacher_view

_TEACHER = TeacherSection()
SCALE = _TEACHER.crop_scale  # of a crop that is cut out of the picture


def evidence_size(sample: Sample) -> tuple[int, int] | None:
    """Width and height, by what the row says; None: the row has neither box nor crop."""
    return teacher_size(sample, _TEACHER)


def evidence_picture(sample: Sample, images: ImageStore) -> Image.Image:
    """RGB, of a sample that has one.

    Raises:
        DataError: an image that cannot be read.
    """
    return teacher_view(sample, images, _TEACHER, seed=0)
