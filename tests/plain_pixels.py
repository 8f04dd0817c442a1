"""What transformers' own processor makes of a rendered picture."""

import numpy as np
from PIL import Image

from common.rendering import RenderedPrompt, Renderer


def plain_pixel_values(renderer: Renderer, prompt: RenderedPrompt) -> np.ndarray:
    """float32 [patches, values of a patch]."""
    picture = Image.fromarray(prompt.pixels)
    found = renderer._processor.image_processor(images=[picture], return_tensors="np")
    return np.asarray(found["pixel_values"], dtype=np.float32)
