"""GLM-4.1V: norms behind attention and MLP as well, and a gated MLP in every part.

Its image processor counts a still picture's repeated frames as pixels, and first brings a side that
is shorter than a token's to that (`PictureGrid.is_glm`). Rotary frequencies of the decoder turn
pairs of neighbours in half of a head; that is in transformers' class.
"""

from collections.abc import Mapping
from typing import Any

from common.families.family import Family


def _tower_sizes(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks have MLPs as wide as the output; a convolution, a layer and a gated MLP merge."""
    merged = vision["hidden_size"] * vision["spatial_merge_size"] ** 2
    output = vision["out_hidden_size"]
    return {
        "is_gated": True,
        "mlp_width": output,
        "merger": (merged + output + 3 * vision["intermediate_size"]) * output,
        "positions": (vision["image_size"] // vision["patch_size"]) ** 2,
    }


GLM4V = Family(
    model_type="glm4v",
    title="GLM-4.1V",
    placeholder="<|image|>",
    vision_tokens=(
        "<|begin_of_image|>", "<|end_of_image|>", "<|image|>",
        "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
    ),
    fused={"Glm4vRMSNorm": "norm", "Glm4VisionMlp": "gate"},
    has_norms_behind=True,
    has_glm_grid=True,
    tower_sizes=_tower_sizes,
)  # fmt: skip
