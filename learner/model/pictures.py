"""The pictures of a packed row: in 8 bits as far as the device, the vision tower's input there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.patching import Patching
from learner.views.inputs import PromptView


@dataclass(frozen=True)
class Pictures:
    """The pictures in one tensor, so that one copy takes them to a device."""

    levels_B: Tensor  # uint8: of all pixels, picture after picture, each [height, width, 3]
    sizes: tuple[tuple[int, int], ...]  # height and width
    patching: Patching

    def patches(self, dtype: torch.dtype) -> Tensor:
        """[patches, values of a patch], as the processor gives them, rounded to `dtype`."""
        pictures = torch.split(self.levels_B, [3 * height * width for height, width in self.sizes])
        shaped = [p.view(*size, 3) for p, size in zip(pictures, self.sizes, strict=True)]
        return self.patching.patches(shaped, dtype)


def pictures_of(prompts: Sequence[PromptView]) -> Pictures:
    """The pictures of some prompts, at least one, in their order."""
    return Pictures(
        torch.cat([prompt.pixels.flatten() for prompt in prompts]),
        tuple((prompt.pixels.shape[0], prompt.pixels.shape[1]) for prompt in prompts),
        prompts[0].patching,
    )
