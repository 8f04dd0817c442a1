"""Pictures brought to the size that an image processor would give them, by its own method.

The processor then has nothing left to resize, here or in an engine. That matters on GPUs, where
SGLang resizes with other arithmetic than a CPU: up to 19 of 255 levels apart in float, one or two
in 8 bits (torchvision 0.28).
"""

from typing import Any

import numpy as np
from PIL import Image

from common.errors import ConfigError
from common.families import TITLES
from common.picture_grid import PictureGrid


class PictureSizes:
    """The sizes of one image processor, and its way of resizing.

    Args:
        processor: an image processor of transformers with patches and a range of pixels.
        has_glm_grid: what `Family.has_glm_grid` says.

    Raises:
        ConfigError: it is of another kind.
    """

    def __init__(self, processor: Any, has_glm_grid: bool = False) -> None:
        missing = [name for name in ("patch_size", "merge_size") if not hasattr(processor, name)]
        size = dict(getattr(processor, "size", None) or {})
        missing += [name for name in ("shortest_edge", "longest_edge") if not size.get(name)]
        if missing:
            raise ConfigError(
                f"model.path: its image processor {type(processor).__name__} has no "
                f"{', '.join(missing)}. Fix: choose a model of the {TITLES} family"
            )
        self._processor = processor
        self._grid = PictureGrid(
            unit=processor.patch_size * processor.merge_size,
            least=size["shortest_edge"],
            most=size["longest_edge"],
            frames=processor.temporal_patch_size if has_glm_grid else 1,
            is_glm=has_glm_grid,
        )

    def fitted(self, picture: Image.Image) -> Image.Image:
        """A picture in the model's size, as `common.rendering.Renderer.fitted` gives it."""
        size = self._grid.size_of(*picture.size)
        return picture if size == picture.size else self._resized(picture, size)

    def _resized(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        import torch
        from transformers.image_utils import SizeDict

        pixels_CHW = np.asarray(picture).transpose(2, 0, 1).copy()
        options = {
            "size": SizeDict(shortest_edge=self._grid.least, longest_edge=self._grid.most),
            "resample": self._processor.resample,
            "factor": self._grid.unit,
        }
        if self._grid.is_glm:
            options["temporal_factor"] = self._grid.frames
        if getattr(self._processor, "backend", "") == "torchvision":
            resized = self._processor.resize(torch.from_numpy(pixels_CHW), **options).numpy()
        else:
            resized = self._processor.resize(pixels_CHW, **options)
        found = Image.fromarray(np.ascontiguousarray(resized.astype(np.uint8).transpose(1, 2, 0)))
        assert found.size == size, (found.size, size)
        return found
