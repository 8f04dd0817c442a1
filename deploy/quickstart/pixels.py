"""Pictures of one size -> the model's patches, many at a time, equal to the processor's."""

import numpy as np
import torch

from deploy.quickstart.processor import MERGE, PATCH

TEMPORAL_PATCH = 2


def pixel_batch(pictures: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches in Qwen's order: the patches of one image token stand together.

    Args:
        pictures: uint8 [height, width, 3], sides multiples of PATCH * MERGE.

    Returns:
        float32 [B * patches, 3 * TEMPORAL_PATCH * PATCH * PATCH], and int64 [B, 3]: the number of
        patches in time, height and width.
    """
    stacked = np.stack(pictures).astype(np.float32) / 127.5 - 1
    count, height, width, channels = stacked.shape
    rows, columns = height // PATCH, width // PATCH
    blocks = stacked.reshape(
        count, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, channels
    )
    # [B, block row, block column, row in block, column in block, channel, y, x]
    ordered = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    patches = ordered.reshape(count * rows * columns, channels, 1, PATCH * PATCH)
    repeated = np.repeat(patches, TEMPORAL_PATCH, axis=2).reshape(len(patches), -1)
    return torch.from_numpy(repeated), torch.tensor([[1, rows, columns]] * count)
