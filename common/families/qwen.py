"""What the Qwen families have in common: tokens of a picture, padded vocabularies, towers."""

from collections.abc import Mapping
from typing import Any

PLACEHOLDER = "<|image_pad|>"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", PLACEHOLDER, "<|video_pad|>")
VOCABULARIES = ("model.embed_tokens.weight", "lm_head.weight", "visual.pos_embed.weight")
MEMORY = "its config.json on the Hugging Face hub, as remembered when this was written"


def tower(
    depth: int, width: int, mlp_width: int, output_width: int, deepstack: tuple[int, ...] = ()
) -> dict[str, Any]:
    """vision_config of Qwen3-VL and Qwen3.5, as far as its size goes."""
    return {
        "depth": depth, "hidden_size": width, "intermediate_size": mlp_width, "patch_size": 16,
        "spatial_merge_size": 2, "out_hidden_size": output_width,
        "deepstack_visual_indexes": deepstack, "num_position_embeddings": 2304,
    }  # fmt: skip


def tower_sizes(vision: Mapping[str, Any]) -> dict[str, Any]:
    """One merger behind the last block, and one for each layer of DeepStack; learnt positions."""
    return {
        "mergers": 1 + len(vision.get("deepstack_visual_indexes") or ()),
        "positions": vision.get("num_position_embeddings", 0),
    }
