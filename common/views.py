"""What the teacher is shown: the evidence crop (paper section 3), a control, or another option."""

import numpy as np
from PIL import Image

from common.config import TeacherSection
from common.errors import DataError
from common.images import ImageStore
from common.rendering import IMAGE_PLACEHOLDER
from common.types import Box, Sample


def teacher_view(
    sample: Sample, images: ImageStore, config: TeacherSection, seed: int
) -> Image.Image:
    """The teacher's picture of a sample, RGB.

    Args:
        seed: places the random crop of the control; the same seed gives the same view.

    Raises:
        DataError: no evidence to show, or an image that cannot be read.
    """
    if config.view in ("full", "answer_hint"):
        return images.open(sample.image)
    if config.view == "crop" and sample.crop is not None:
        return images.open(sample.crop)
    if sample.box is None:
        raise DataError(f"sample {sample.sample_id} has neither a crop nor a box")
    picture = images.open(sample.image)
    box = with_margin(sample.box, config.crop_margin, picture.size)
    if config.view == "random_crop":
        box = moved_at_random(box, picture.size, seed)
    return cut(picture, box, config.crop_scale)


def teacher_size(sample: Sample, config: TeacherSection) -> tuple[int, int] | None:
    """Width and height of `teacher_view`, by what the row says; None: no evidence to show."""
    whole = (sample.image.width, sample.image.height)
    if config.view in ("full", "answer_hint"):
        return whole
    if config.view == "crop" and sample.crop is not None:
        return (sample.crop.width, sample.crop.height)
    if sample.box is None:
        return None
    box = with_margin(sample.box, config.crop_margin, whole)
    return scaled_size((box.x2 - box.x1, box.y2 - box.y1), config.crop_scale)


def with_answer_hint(problem: str, hint: str, answer: str) -> str:
    """`problem` followed by `hint`, in which every {answer} is replaced (OPSD, arXiv 2601.18734).

    SHOWS A LABEL to the teacher. Only teacher.view = "answer_hint" does so; the method proper does
    not. Braces in an answer are harmless: it is put in as it stands.

    Raises:
        DataError: hint or answer holds the image placeholder, so that two pictures would be asked
            for.
    """
    text = hint.replace("{answer}", answer)
    if IMAGE_PLACEHOLDER in text:
        raise DataError(
            f"the answer hint holds {IMAGE_PLACEHOLDER!r}: {text!r}. "
            "Fix: take it out of the answer or of teacher.answer_hint"
        )
    return problem + text


def pixelated(picture: Image.Image, pixels: int) -> Image.Image:
    """`picture` in squares of one colour each, their mean; same size, hence as many image tokens.

    It keeps layout and colours and loses fine detail: the contrast of the visual advantage
    (VA-OPD, arXiv 2605.21924).

    Args:
        picture: RGB.
        pixels: side of a square; those at the right and lower edge are cut off by it.
    """
    means = picture.reduce(pixels)
    squares = means.resize((means.width * pixels, means.height * pixels), Image.Resampling.NEAREST)
    return squares.crop((0, 0, *picture.size))


def with_margin(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """`box` widened by `margin` of its sides, shifted (not shrunk) to stay inside the picture."""
    width, height = size
    if box.x2 > width or box.y2 > height:
        raise DataError(f"box {box} reaches outside the {width} x {height} picture")
    x1, x2 = _widen(box.x1, box.x2, margin, width)
    y1, y2 = _widen(box.y1, box.y2, margin, height)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def moved_at_random(box: Box, size: tuple[int, int], seed: int) -> Box:
    """A box of the same size at a uniformly random place."""
    rng = np.random.default_rng(seed)
    x1 = int(rng.integers(0, size[0] - (box.x2 - box.x1) + 1))
    y1 = int(rng.integers(0, size[1] - (box.y2 - box.y1) + 1))
    return Box(x1=x1, y1=y1, x2=x1 + box.x2 - box.x1, y2=y1 + box.y2 - box.y1)


def cut(picture: Image.Image, box: Box, scale: float) -> Image.Image:
    """The part of `picture` inside `box`, enlarged by `scale` (bicubic)."""
    crop = picture.crop((box.x1, box.y1, box.x2, box.y2))
    if scale == 1:
        return crop
    return crop.resize(scaled_size(crop.size, scale), Image.Resampling.BICUBIC)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides of a cut that is enlarged by `scale`: at least a pixel each way."""
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def _widen(low: int, high: int, margin: float, limit: int) -> tuple[int, int]:
    length = min(limit, round((high - low) * (1 + 2 * margin)))
    start = min(max(0, low - round((high - low) * margin)), limit - length)
    return start, start + length
