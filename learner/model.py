"""The student: load it, and run it up to the hidden states that predict response tokens."""

from typing import Any

import torch
from torch import Tensor, nn

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.config import ModelSection
from common.errors import ConfigError
from learner.prefix import Rows


def choose_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("learner.device = cuda: no GPU is usable. Fix: learner.device = cpu")
    return torch.device(
        "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"
    )


def load_student(config: ModelSection, device: torch.device) -> Any:
    """The model with float32 master weights, ready to train.

    Raises:
        ConfigError: no such model, or options that do not fit together.
    """
    from transformers import AutoModelForImageTextToText

    attention = _attention(config)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            config.path, dtype=torch.float32, attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model.path = {config.path!r} cannot be loaded: {reason} "
            "Fix: name a Hugging Face folder of an image-text model"
        ) from error
    model.to(device)
    if config.freeze_vision_tower:
        _vision_tower(model).requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model


def response_hidden_states(model: Any, rows: Rows, dtype: torch.dtype) -> Tensor:
    """[N, D]: for each response token the hidden state that predicts it, computed in `dtype`."""
    is_mixed = dtype != torch.float32
    with torch.autocast(rows.input_ids_BL.device.type, dtype=dtype, enabled=is_mixed):
        output = model.base_model(
            input_ids=rows.input_ids_BL,
            attention_mask=_as_taken(rows.attention_mask, model.config._attn_implementation),
            position_ids=rows.position_ids_3BL,
            pixel_values=rows.pixel_values,
            image_grid_thw=rows.image_grid_thw,
            use_cache=False,
        )
    hidden_BLD: Tensor = output.last_hidden_state
    hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, rows.predicting_N)
    return hidden_ND.to(dtype) if is_mixed else hidden_ND


def prompt_positions(model: Any, input_ids: Tensor, types: Tensor, grid_thw: Tensor) -> Tensor:
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


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a server must get, by its state_dict name, tied ones once."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            weights[name] = tensor.detach()
    return weights


def _as_taken(mask: Tensor, attention: str) -> Tensor:
    """Eager attention adds its mask to the scores; the others take booleans."""
    if attention != "eager" or mask.ndim != 4:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))


def _attention(config: ModelSection) -> str:
    if config.attention == "flash_attention_2" and config.share_prefix:
        raise ConfigError(
            "model.attention = flash_attention_2 cannot mask branches. "
            "Fix: model.share_prefix = false, or model.attention = sdpa"
        )
    if config.attention != "auto":
        return config.attention
    return "flash_attention_2" if not config.share_prefix and _has_flash_attention() else "sdpa"


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def _vision_tower(model: Any) -> nn.Module:
    tower = getattr(model.base_model, "visual", None)
    if not isinstance(tower, nn.Module):
        raise ConfigError(
            f"model.freeze_vision_tower: {type(model).__name__} has no part named visual. "
            "Fix: model.freeze_vision_tower = false"
        )
    return tower
