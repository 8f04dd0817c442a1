"""Pictures brought to the size that a Qwen image processor would make of them, by its own method.

The processor then has nothing left to resize, here or in an engine. That matters on GPUs, where
SGLang resizes with other arithmetic than a CPU: up to 19 of 255 levels apart in float, one or two
in 8 bits (torchvision 0.28).
"""

from typing import Any

import numpy as np
from PIL import Image

from common.errors import ConfigError, DataError
from common.families import TITLES


class PictureSizes:
    """Args:
        processor: an image processor of transformers with patches and a range of pixels.

    Raises:
        ConfigError: it is of another kind.
    """

    def __init__(self, processor: Any) -> None:
        missing = [name for name in ("patch_size", "merge_size") if not hasattr(processor, name)]
        size = dict(getattr(processor, "size", None) or {})
        missing += [name for name in ("shortest_edge", "longest_edge") if not size.get(name)]
        if missing:
            raise ConfigError(
                f"model.path: its image processor {type(processor).__name__} has no "
                f"{', '.join(missing)}. Fix: choose a model of the {TITLES} family"
            )
        self._processor = processor
        self._unit = processor.patch_size * processor.merge_size  # pixels a side of a token
        self._least, self._most = size["shortest_edge"], size["longest_edge"]  # pixels in all

    def fitted(self, picture: Image.Image) -> Image.Image:
        """As `common.rendering.Renderer.fitted`."""
        size = self.size_of(*picture.size)
        return picture if size == picture.size else self._resized(picture, size)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of this size gets.

        Raises:
            DataError: no size will do.
        """
        fitted = self._asked(width, height)
        # Rounding can push a picture at the limit over it: an engine would then refuse it.
        if self._asked(*fitted) != fitted:
            raise DataError(
                f"a picture of {width} x {height} pixels has no size that the model's processor "
                "leaves alone. Fix: cut it to a less extreme shape"
            )
        return fitted

    def _asked(self, width: int, height: int) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        try:
            new_height, new_width = smart_resize(
                height, width, self._unit, min_pixels=self._least, max_pixels=self._most
            )
        except ValueError as error:
            raise DataError(
                f"a picture of {width} x {height} pixels: {error}. Fix: cut it to a less extreme "
                "shape"
            ) from error
        return new_width, new_height

    def _resized(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        import torch
        from transformers.image_utils import SizeDict

        pixels_CHW = np.asarray(picture).transpose(2, 0, 1).copy()
        options = {
            "size": SizeDict(shortest_edge=self._least, longest_edge=self._most),
            "resample": self._processor.resample,
            "factor": self._unit,
        }
        if getattr(self._processor, "backend", "") == "torchvision":
            resized = self._processor.resize(torch.from_numpy(pixels_CHW), **options).numpy()
        else:
            resized = self._processor.resize(pixels_CHW, **options)
        found = Image.fromarray(np.ascontiguousarray(resized.astype(np.uint8).transpose(1, 2, 0)))
        assert found.size == size, (found.size, size)
        return found
