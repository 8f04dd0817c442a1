"""The size that an image processor gives a picture, and its tokens, from a checkpoint's files.

By the published rule (`smart_resize` of Qwen's and GLM-V's processors): sides are multiples of a
token's side, the area stays in a range, the shape nearly the same. No transformers is needed;
tests/common/test_prompt_lengths.py compares it with transformers' own.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.families import family_of_folder
from common.files import json_object_or_empty

MOST_ELONGATED = 200  # longer side over shorter one, in every family


@dataclass(frozen=True)
class PictureGrid:
    """How an image processor cuts pictures into tokens."""

    unit: int  # pixels a side of a token
    least: int  # pixels in all
    most: int
    frames: int = 1  # how often each pixel counts
    is_glm: bool = False  # a side that is shorter than a token's is brought to that before all else

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of this size gets.

        Raises:
            DataError: no size will do.
        """
        check_shape(width, height)
        fitted = self._rounded(width, height)
        # Rounding can push a picture at the limit over it: an engine would then refuse it.
        if is_elongated(*fitted) or self._rounded(*fitted) != fitted:
            raise DataError(
                f"a picture of {width} x {height} pixels has no size that the model's processor "
                "leaves alone. Fix: cut it to a less extreme shape"
            )
        return fitted

    def tokens_of(self, width: int, height: int) -> int:
        """Image tokens in a prompt. Raises as `size_of`."""
        fitted_width, fitted_height = self.size_of(width, height)
        return fitted_width * fitted_height // self.unit**2

    def _rounded(self, width: int, height: int) -> tuple[int, int]:
        unit = self.unit
        if self.is_glm and min(width, height) < unit:
            by = max(unit / height, unit / width)
            width, height = int(width * by), int(height * by)
        sides = (width, height)
        nearest_w, nearest_h = (round(side / unit) * unit for side in sides)
        if self.frames * nearest_w * nearest_h > self.most:
            by = math.sqrt((self.frames * height * width) / self.most)
            smaller_w, smaller_h = (max(unit, math.floor(s / by / unit) * unit) for s in sides)
            return smaller_w, smaller_h
        if self.frames * nearest_w * nearest_h < self.least:
            by = math.sqrt(self.least / (self.frames * height * width))
            larger_w, larger_h = (math.ceil(side * by / unit) * unit for side in sides)
            return larger_w, larger_h
        return nearest_w, nearest_h


def is_elongated(width: int, height: int) -> bool:
    return max(width, height) > MOST_ELONGATED * min(width, height)


def check_shape(width: int, height: int) -> None:
    """Refuse a shape that no processor takes. Raises DataError."""
    if is_elongated(width, height):
        raise DataError(
            f"a picture of {width} x {height} pixels has one side more than {MOST_ELONGATED} times "
            "the other. Fix: cut it to a less extreme shape"
        )


def grid_of_folder(folder: Path) -> PictureGrid | None:
    """The grid that a checkpoint's files tell of; None means that they do not."""
    settings = json_object_or_empty(folder / "processor_config.json").get("image_processor")
    if not isinstance(settings, dict):
        settings = json_object_or_empty(folder / "preprocessor_config.json")
    size = settings.get("size")
    size = size if isinstance(size, dict) else {}
    found = (
        settings.get("patch_size"),
        settings.get("merge_size"),
        settings.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels"),
        settings.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels"),
    )
    numbers = [number for number in found if type(number) is int and number > 0]
    if len(numbers) < len(found):
        return None
    patch, merge, least, most = numbers
    family = family_of_folder(folder)
    if family is None or not family.has_glm_grid:
        return PictureGrid(patch * merge, least, most)
    return PictureGrid(patch * merge, least, most, settings.get("temporal_patch_size", 2), True)
