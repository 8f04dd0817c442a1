"""The vision tower over the images of a packed row, and its output in the place of their tokens.

transformers' own way asks the device for sizes and places that the host knows: a dozen waits a pass
and three more in each block. Here all of them are computed on the host and handed in.
Axes: P image tokens of the row, in its order, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.forwards import with_forward, with_methods
from common.image_text_model import ImageTextModel, VisionTower
from learner.model.packing import PackedRow
from learner.model.transfer import sent


@dataclass(frozen=True)
class ImageFeatures:
    """What the row holds in the place of its image tokens."""

    tokens_PD: Tensor
    of_layers: tuple[Tensor, ...]  # [P, D] each: added behind the first decoder layers (DeepStack)
    places_P: Tensor  # int64, into the row


def image_features(model: ImageTextModel, row: PackedRow, dtype: torch.dtype) -> ImageFeatures:
    """Run each image through the tower once, however often it is in the row.

    Raises:
        ValueError: the row has more or fewer image tokens than its images.
    """
    tower, device = model.base_model.visual, row.input_ids_L.device
    grid_N3 = row.grid_thw_on_host
    output = tower(row.pictures.patches(dtype), grid_thw=grid_N3, **_known(tower, grid_N3, device))
    sizes_N = (grid_N3.prod(-1) // tower.spatial_merge_size**2).tolist()
    places_P = np.flatnonzero(row.ids_on_host == model.config.image_token_id)
    expected = sum(sizes_N[image] for image in row.image_of_root)
    if len(places_P) != expected:
        raise ValueError(
            f"the row has {len(places_P)} image tokens, its images have {expected}. Fix: render "
            "prompts with the processor of the model"
        )

    def in_row(features_QD: Tensor) -> Tensor:
        parts = torch.split(features_QD, sizes_N)
        return torch.cat([parts[image] for image in row.image_of_root])

    return ImageFeatures(
        in_row(output.pooler_output),
        tuple(in_row(layer) for layer in getattr(output, "deepstack_features", None) or ()),
        sent(torch.from_numpy(places_P), device),
    )


def embed(
    model: ImageTextModel, row: PackedRow, features: ImageFeatures
) -> tuple[Tensor, dict[str, Any]]:
    """[1, L, D], what the first decoder layer gets, and further arguments of the language model."""
    embedded_LD = model.get_input_embeddings()(row.input_ids_L)
    tokens_PD = features.tokens_PD.to(embedded_LD.dtype)
    embedded_LD = embedded_LD.index_copy(0, features.places_P, tokens_PD)
    if not features.of_layers:
        return embedded_LD[None], {}
    return embedded_LD[None], {
        "visual_pos_masks": features.places_P,
        "deepstack_visual_embeds": list(features.of_layers),
    }


def add_features_by_place(model: nn.Module) -> None:
    """Make decoders with DeepStack take places: a mask's tokens would have to be counted."""
    for module in model.modules():
        if hasattr(module, "_deepstack_process"):
            module.__class__ = _adding_by_place(type(module))


def _adding_by_place(plain: Any) -> type[nn.Module]:
    def process(self: Any, hidden_1LD: Tensor, places: Tensor, features_PD: Tensor) -> Tensor:
        if places.dtype == torch.bool:  # the ordinary forward pass of a batch (greedy answers)
            output: Tensor = plain._deepstack_process(self, hidden_1LD, places, features_PD)
            return output
        return hidden_1LD.index_add(1, places, features_PD[None].to(hidden_1LD.dtype))

    return with_methods(plain, {"_deepstack_process": process})


def take_sizes_to_device(model: nn.Module) -> None:
    """Give a tower that interpolates its positions by itself (GLM-V's) the sizes on its device.

    Elsewhere in the tower the host needs them.
    """
    for module in model.modules():
        if hasattr(module, "interpolated_method"):
            module.__class__ = _taking_sizes(type(module))


def _taking_sizes(plain: Any) -> type[nn.Module]:
    def forward(self: Any, embedded_PD: Tensor, *sizes: Tensor) -> Tensor:
        moved = (sent(tensor, embedded_PD.device) for tensor in sizes)
        output: Tensor = plain.forward(self, embedded_PD, *moved)
        return output

    return with_forward(plain, forward)


def _known(tower: VisionTower, grid_N3: Tensor, device: torch.device) -> dict[str, Any]:
    """The arguments that a tower would else compute from its images' sizes.

    Where it splits its rows for one call an image, it wants lengths as numbers: they stay on the
    host. (flash-attn takes them on the device.)
    """
    from transformers.utils.generic import is_flash_attention_requested
    from transformers.vision_utils import (
        get_vision_cu_seqlens,
        get_vision_interpolation_indices_and_weights,
        get_vision_position_ids,
        get_vision_window_index,
    )

    is_flash = is_flash_attention_requested(tower.config)
    merge = tower.spatial_merge_size
    starts = {"cu_seqlens": get_vision_cu_seqlens(grid_N3)}
    found = {"position_ids": get_vision_position_ids(grid_N3, merge)}
    if hasattr(tower, "pos_embed"):
        found["interp_indices"], found["interp_weights"] = (
            get_vision_interpolation_indices_and_weights(
                grid_N3,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=merge,
            )
        )
    if hasattr(tower, "window_size"):
        found["window_index"], starts["cu_window_seqlens"] = get_vision_window_index(
            grid_N3, merge, tower.window_size, tower.patch_size
        )
    longest = {
        name.replace("cu_", "max_").replace("seqlens", "seqlen"): int(of_S.diff().max())
        for name, of_S in starts.items()
        if is_flash
    }
    moving = {**found, **(starts if is_flash else {})}
    return {**starts, **{name: sent(value, device) for name, value in moving.items()}, **longest}
