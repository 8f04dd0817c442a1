"""8-bit pixels -> the patches that a Qwen image processor makes of them, on any device, exactly.

A processor brings each level to a float (rescaled, less a mean, over a deviation), cuts the picture
into patches, token by token, and repeats each patch for the frames that a still picture lacks: 8
bytes and more for each byte of the picture. There are 256 levels a channel, so what becomes of them
is asked of the processor once, and looked up from then on: in which order it computes, and how a
device rounds, plays no part. Axes: P patches, C channels, S pixels of a patch, V values of a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from common.errors import ConfigError
from common.families import TITLES

if TYPE_CHECKING:
    from torch import Tensor, dtype

LEVELS = 256


@dataclass(frozen=True)
class Patching:
    """What an image processor makes of a picture whose size it leaves alone."""

    values_CL: "Tensor"  # float32 [3, 256]: of each level
    side: int  # pixels of a patch
    merge: int  # patches a side of a token
    frames: int  # how often a still picture is repeated

    def grid_of(self, height: int, width: int) -> np.ndarray:
        """int64 [1, 3]: patches in time, height and width."""
        return np.array([[1, height // self.side, width // self.side]], dtype=np.int64)

    def patches(self, pictures: "Sequence[Tensor]", dtype: "dtype") -> "Tensor":
        """[P, V]: the `pixel_values` of some pictures, one after the other.

        Args:
            pictures: uint8 [height, width, 3], on the device of `values_CL`; at least one.
        """
        import torch

        levels_PCS = torch.cat([self._cut(picture) for picture in pictures])
        first_C1 = torch.arange(3, dtype=torch.int32, device=levels_PCS.device)[:, None] * LEVELS
        values = self.values_CL.to(dtype).flatten()
        found = values.index_select(0, (levels_PCS.int() + first_C1).flatten())
        frames = found.view(-1, 3, 1, self.side**2).expand(-1, -1, self.frames, -1)
        return frames.reshape(len(levels_PCS), -1)

    def _cut(self, picture: "Tensor") -> "Tensor":
        """uint8 [P, C, S]: the patches of a token stand together."""
        height, width, _ = picture.shape
        unit = self.side * self.merge
        blocks = picture.view(
            height // unit, self.merge, self.side, width // unit, self.merge, self.side, 3
        )
        return blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, self.side**2)


def patching_of(processor: Any) -> Patching:
    """Find out how an image processor makes patches, by a picture that holds every level.

    Raises:
        ConfigError: it makes something else of its pictures than Qwen's processors.
    """
    import torch

    side, merge, frames = (
        getattr(processor, name, 1) for name in ("patch_size", "merge_size", "temporal_patch_size")
    )
    picture_HWC = _picture_of_all_levels(side * merge)
    output = processor(images=[Image.fromarray(picture_HWC)], do_resize=False, return_tensors="np")
    expected_PV = np.asarray(output["pixel_values"], dtype=np.float32)
    picture = torch.from_numpy(picture_HWC)
    numbers_CL = torch.arange(3 * LEVELS, dtype=torch.float32).view(3, LEVELS)
    numbers = Patching(numbers_CL, side, merge, frames).patches([picture], torch.float32)
    values_CL = torch.zeros(3, LEVELS)
    if numbers.shape == expected_PV.shape:
        values_CL.view(-1)[numbers.long()] = torch.from_numpy(expected_PV)
    found = Patching(values_CL, side, merge, frames)
    if not np.array_equal(found.patches([picture], torch.float32).numpy(), expected_PV):
        raise ConfigError(
            f"model.path: its image processor {type(processor).__name__} makes other patches than "
            f"Qwen's processors. Fix: choose a model of the {TITLES} family"
        )
    return found


def _picture_of_all_levels(unit: int) -> np.ndarray:
    """uint8 [height, width, 3]: 2 x 3 tokens or more, in which no two places are alike."""
    height, width = 2 * unit, max(3, -(-LEVELS // (2 * unit * unit))) * unit
    rng = np.random.default_rng(0)
    levels = np.arange(height * width) % LEVELS
    channels = [rng.permutation(levels) for _ in range(3)]
    return np.stack(channels, axis=-1).reshape(height, width, 3).astype(np.uint8)
