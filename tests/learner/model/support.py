"""Models of a few parameters, as the sharding tests train them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.model.lora import add_adapters
from tests.tiny_model import PATCH_SIZES, image_start

IMAGE_TOKENS = 4


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    folder: str
    family: str = "qwen3_vl"
    is_tied: bool = True
    checkpointing: bool = True
    freezes_vision: bool = False
    features_first: bool = False  # get_image_features is called before the model, as the learner
    lora_rank: int = 0


def load(case: Case) -> Any:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(case.folder, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith(".dt_bias"):
            parameter.data -= 1 / 3  # the 1 that it starts as is one in bfloat16 too
    if case.freezes_vision:
        model.base_model.visual.requires_grad_(False)
    if case.lora_rank:
        add_adapters(model, case.lora_rank, alpha=8.0, seed=1)
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def inputs(model: Any, family: str, number: int) -> dict[str, Tensor]:
    """Prompt with an image of 4 tokens, then words; another length for each number."""
    made = torch.Generator().manual_seed(number)
    config = model.config
    words = torch.randint(7, config.get_text_config().vocab_size, (8 + number % 4,), generator=made)
    start, image = image_start(config), config.image_token_id
    ids = torch.cat([words[:2], torch.tensor([start] + [image] * IMAGE_TOKENS), words[2:]])
    values = 3 * 2 * PATCH_SIZES[family] ** 2
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        "mm_token_type_ids": (ids == image).long()[None],
        "pixel_values": torch.randn(4 * IMAGE_TOKENS, values, generator=made),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def hidden_states(model: Any, case: Case, number: int) -> Tensor:
    fed = inputs(model, case.family, number)
    if case.features_first:
        features = model.base_model.get_image_features(
            fed.pop("pixel_values"), fed["image_grid_thw"], return_dict=True
        )
        fed["mm_encoder_outputs"] = {"image": features}
    return model.base_model(**fed, use_cache=False).last_hidden_state[0]
