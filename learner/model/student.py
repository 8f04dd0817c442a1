"""The student: load it, and run it up to the hidden states that predict response tokens."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from common.config import ModelSection
from common.errors import ConfigError
from common.families import TITLES, family_named
from common.gpus import refuse_idle_gpus
from common.image_text_model import ImageTextModel
from common.model_loading import (
    is_stored_as_it_is,
    load_image_text_model,
    outline_image_text_model,
)
from common.patch_embedding import multiply_patches
from learner.model import tree_attention
from learner.model.delta_net import follow_layouts
from learner.model.fused import fuse
from learner.model.last_layer import NarrowLayer, narrow_last_layer
from learner.model.packing import PackedRow
from learner.model.vision import (
    add_features_by_place,
    embed,
    image_features,
    take_sizes_to_device,
)


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: there is one that torch cannot use.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError("learner.device = cuda: no GPU is usable. Fix: learner.device = cpu")
    if name == "auto" and not has_gpu:
        refuse_idle_gpus(torch.__version__)
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def load_student(config: ModelSection, device: torch.device) -> ImageTextModel:
    """The model with float32 master weights, ready to train.

    Args:
        device: "meta": its parameters have no memory yet, and its files are read later, in parts
            (`learner.loading`). Those of a family whose tensors transformers joins or splits are
            on the CPU also then.

    Raises:
        ConfigError: no such model, one that is not whole or not finite, one that cannot be packed,
            or options that do not fit together.
    """
    if device.type != "meta":
        return prepare_to_train(load_image_text_model(config.path), config, device)
    model = outline_image_text_model(config.path)
    if not is_stored_as_it_is(model):
        model = load_image_text_model(config.path)
    return prepare_to_train(model, config, device)


def prepare_to_train(
    model: ImageTextModel, config: ModelSection, device: torch.device
) -> ImageTextModel:
    """Make a loaded model compute packed rows, and recompute or freeze what the config says.

    For the whole process cuDNN's attention is turned off: it plans anew, for up to half a second,
    for every length of a picture (pytorch issue 191576), and the flash kernels are as fast.

    Raises:
        ConfigError: a model of another form, or layers that cannot be packed.
    """
    _check_form(model)
    _check_layers(model)
    torch.backends.cuda.enable_cudnn_sdp(False)
    model.set_attn_implementation(
        {"text_config": tree_attention.register(), "vision_config": _vision_attention(config)}
    )
    follow_layouts(model)
    fuse(model)
    multiply_patches(model)
    add_features_by_place(model)
    take_sizes_to_device(model)
    narrow_last_layer(model)
    if device.type != "meta":
        model.to(device)
    if config.freeze_vision_tower:
        model.base_model.visual.requires_grad_(False)
    if config.gradient_checkpointing:
        _recompute(model, config)
    model.train()
    return model


def response_hidden_states(
    model: ImageTextModel,
    row: PackedRow,
    dtype: torch.dtype,
    around_vision: AbstractContextManager[None] | None = None,
) -> Tensor:
    """[N, D]: for each response token the hidden state that predicts it, computed in `dtype`.

    A sharded model holds its weights in that dtype while it computes; of another one autocast takes
    the matrix products alone to it, and norms and sums over layers stay in float32.

    Args:
        around_vision: entered while the vision tower runs, to measure it.
    """
    is_mixed = dtype != torch.float32 and not isinstance(model.base_model, FSDPModule)
    with torch.autocast(row.input_ids_L.device.type, dtype=dtype, enabled=is_mixed):
        with around_vision or nullcontext():
            features = image_features(model, row, dtype)
        embedded_1LD, rest = embed(model, row, features)
        output = model.base_model.language_model(
            inputs_embeds=embedded_1LD,
            position_ids=row.position_ids_3L[:, None],
            use_cache=False,
            layout=row.layout,
            **rest,
        )
    hidden: Tensor = output.last_hidden_state[0]  # [M, D] of what is asked for, or [L, D] of all
    is_narrow = isinstance(model.base_model.language_model.layers[-1], NarrowLayer)
    hidden_ND = hidden.index_select(0, row.predicting_N if is_narrow else row.places_N)
    return hidden_ND.to(dtype) if dtype != torch.float32 else hidden_ND


def prompt_positions(
    model: ImageTextModel, input_ids: Tensor, types: Tensor, grid_thw: Tensor
) -> Tensor:
    """int64 [3, P]: the model's own rotary positions of one prompt.

    Args:
        input_ids: int64 [P].
        types: int64 [P], 1 at image tokens.
        grid_thw: int64 [images, 3].
    """
    positions_31P: Tensor = model.base_model.get_rope_index(
        input_ids[None], mm_token_type_ids=types[None], image_grid_thw=grid_thw
    )[0]
    return positions_31P[:, 0]


def _recompute(model: ImageTextModel, config: ModelSection) -> None:
    """Recompute the layers of decoder and vision tower that the config says."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    root = model.base_model
    stacks: tuple[Iterable[Any], ...] = (root.language_model.layers, root.visual.blocks)
    for stack in stacks:
        for number, layer in enumerate(stack):
            layer.gradient_checkpointing = config.recomputes(number)


def _vision_attention(config: ModelSection) -> str:
    if config.attention != "auto":
        return config.attention
    return "flash_attention_2" if _has_flash_attention() else "sdpa"


def _check_form(model: ImageTextModel) -> None:
    """Refuse a model without the parts that packing and sharding work on."""
    root = model.base_model
    layers = getattr(getattr(root, "language_model", None), "layers", None)
    is_known = isinstance(layers, nn.ModuleList) and isinstance(
        getattr(root, "visual", None), nn.Module
    )
    if not is_known or not hasattr(root, "get_rope_index"):
        raise ConfigError(
            f"model.path: a {type(model).__name__} cannot be trained here: it has not the parts of "
            "an image-text model (language_model.layers, visual). Fix: choose a model of the "
            f"{TITLES} family"
        )


def _check_layers(model: ImageTextModel) -> None:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - set(family_named(model.config.model_type).layer_kinds):
        raise ConfigError(
            f"model.path: layers of kind {', '.join(sorted(unknown))} are not supported. "
            f"Fix: choose a model of the {TITLES} family"
        )


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())
