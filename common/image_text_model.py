"""What is asked of an image-text model of transformers, as types: nothing here runs.

transformers' classes do not inherit from these. `common.model_loading` says of a model that it has
loaded that it is an `ImageTextModel`; `learner.model.student` checks that it has these parts before
it is trained.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class VisionTower(nn.Module):
    """Patches [P, V] and grid_thw [images, 3] -> `pooler_output` [image tokens, D]."""

    config: Any
    blocks: nn.ModuleList
    spatial_merge_size: int  # patches a side of an image token


class Decoder(nn.Module):
    """inputs_embeds [1, L, D] and position_ids [3, 1, L] -> `last_hidden_state` [1, L, D].

    Its layers hand further arguments on to their attention (`layout`).
    """

    layers: nn.ModuleList


class ImageTextBase(nn.Module):
    """The model without its head."""

    visual: VisionTower
    language_model: Decoder
    # int64: positions [3, B, L], and of each row its next position less its length [B, 1]
    get_rope_index: Callable[..., tuple[Tensor, Tensor]]


class ImageTextModel(nn.Module):
    """A model with its head: tower, decoder, positions, and the two ends of the vocabulary."""

    from_pretrained: ClassVar[Callable[..., Any]]
    config: Any  # model_type, text and vision config, image_token_id
    base_model: ImageTextBase
    get_input_embeddings: Callable[[], nn.Embedding]  # int64 [L] -> [L, D]
    get_output_embeddings: Callable[[], nn.Linear]  # [L, D] -> [L, vocabulary]
    set_attn_implementation: Callable[[dict[str, str]], None]
    gradient_checkpointing_enable: Callable[[dict[str, Any]], None]
    save_pretrained: Callable[..., None]
