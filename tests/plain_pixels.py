"""What transformers' own processor makes of a rendered picture."""

import hashlib

import numpy as np
from PIL import Image

from common.rendering import RenderedPrompt, Renderer


def plain_pixel_values(renderer: Renderer, prompt: RenderedPrompt) -> np.ndarray:
    """float32 [patches, values of a patch]."""
    picture = Image.fromarray(prompt.pixels)
    found = renderer._processor.image_processor(images=[picture], return_tensors="np")
    return np.asarray(found["pixel_values"], dtype=np.float32)


def pixel_digest(pixel_values: np.ndarray) -> str:
    """sha256 of patches, in steps finer than one of 255 levels and coarser than float rounding.

    So a GPU's and a CPU's normalisation of equal pixels have equal digests.
    rollout/sglang/launch.py makes the same ones.
    """
    steps = np.rint(np.asarray(pixel_values, dtype=np.float32) * 512).astype(np.int16)
    return hashlib.sha256(steps.tobytes()).hexdigest()
