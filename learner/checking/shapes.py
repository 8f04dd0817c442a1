"""Models and batches in the proportions of the published run.

Lengths are those of `learner.checking.lengths`; a small model keeps, as far as whole heads allow,
the published proportions of decoder, vision tower and output head.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.config import RunConfig
from common.image_text_model import ImageTextModel
from common.patching import Patching
from learner.checking.lengths import Lengths
from learner.views.inputs import PreparedBatch, PreparedGroup, PromptView

IMAGE_TOKEN, FIRST_TEXT_TOKEN = 5, 16
TRAJECTORIES = 8
PATCHING = Patching((torch.arange(256) / 127.5 - 1).repeat(3, 1), side=16, merge=2, frames=2)


@dataclass(frozen=True)
class ModelSize:
    """The size of a random model; one decoder layer in four attends, where a family has others."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_width: int
    delta_keys: int  # heads of a gated delta net's keys
    delta_values: int
    delta_width: int
    vocabulary: int
    tower_depth: int
    tower_hidden: int
    tower_mlp: int
    tower_heads: int
    is_tied: bool = True  # whether head and embedding are one


def tenth_of_4b(layers: int, vocabulary: int) -> ModelSize:
    """A tenth of a 4B model's widths: decoder of 256, vision tower of 128."""
    return ModelSize(layers, 256, 960, 4, 1, 64, 4, 8, 64, vocabulary, 8, 128, 480, 2)


def qwen3_5_4b(layers: int = 32) -> ModelSize:
    """The size in `deploy.planning.shape`: 4.5 billion parameters with all layers."""
    return ModelSize(layers, 2560, 9216, 16, 4, 256, 16, 32, 128, 248_320, 24, 1024, 4096, 16)


def make_model(family: str, size: ModelSize, device: torch.device | str = "cpu") -> Any:
    """Random float32 weights of "qwen3_vl" or "qwen3_5"."""
    import transformers

    torch.manual_seed(0)
    text: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_width,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": size.is_tied,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    vision = {
        "depth": size.tower_depth,
        "hidden_size": size.tower_hidden,
        "intermediate_size": size.tower_mlp,
        "num_heads": size.tower_heads,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": 2304,
    }
    tokens = {
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": 6,
        "vision_start_token_id": 7,
        "vision_end_token_id": 8,
        "tie_word_embeddings": size.is_tied,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_interleaved": True}
    half = size.head_width // 2
    with torch.device(device):
        if family == "qwen3_vl":
            sections = _sections(half)
            config = transformers.Qwen3VLConfig(
                text_config={**text, "rope_parameters": {**rope, "mrope_section": sections}},
                vision_config={**vision, "deepstack_visual_indexes": [2, 4, 6]},
                **tokens,
            )
            return transformers.Qwen3VLForConditionalGeneration(config)
        share = 0.25 if size.head_width >= 256 else 0.5
        rope |= {"partial_rotary_factor": share, "mrope_section": _sections(round(half * share))}
        config = transformers.Qwen3_5Config(
            text_config={
                **text,
                "linear_key_head_dim": size.delta_width,
                "linear_value_head_dim": size.delta_width,
                "linear_num_key_heads": size.delta_keys,
                "linear_num_value_heads": size.delta_values,
                "linear_conv_kernel_dim": 4,
                "layer_types": [
                    "full_attention" if n % 4 == 3 else "linear_attention"
                    for n in range(size.layers)
                ],
                "rope_parameters": rope,
            },
            vision_config=vision,
            **tokens,
        )
        return transformers.Qwen3_5ForConditionalGeneration(config)


def _sections(half: int) -> list[int]:
    """Frequencies for time, height and width."""
    third = half // 3
    return [half - 2 * third, third, third]


def make_batch(
    step: int, groups: int, lengths: Lengths, model: ImageTextModel, vocabulary: int
) -> PreparedBatch:
    """Random pixels, questions and responses; lengths of responses vary by a third."""
    rng = np.random.default_rng(step)
    return PreparedBatch(
        step, tuple(_group(f"{step}/{n}", lengths, model, vocabulary, rng) for n in range(groups))
    )


def _group(
    name: str, lengths: Lengths, model: ImageTextModel, vocabulary: int, rng: np.random.Generator
) -> PreparedGroup:
    question = rng.integers(FIRST_TEXT_TOKEN, vocabulary, lengths.text - 2)
    low, high = round(lengths.response * 2 / 3), round(lengths.response * 4 / 3)
    sizes = rng.integers(max(2, low), high + 1, TRAJECTORIES)
    responses = tuple(rng.integers(FIRST_TEXT_TOKEN, vocabulary, size) for size in sizes)
    return PreparedGroup(
        name,
        student=_view(lengths.image, question, model, rng),
        teacher=_view(lengths.crop, question, model, rng),
        responses=responses,
        rollout_logprobs=tuple(
            np.full(size, -math.log(vocabulary), dtype=np.float32) for size in sizes
        ),
        staleness=(0,) * TRAJECTORIES,
    )


def _view(
    image_tokens: int, question: np.ndarray, model: ImageTextModel, rng: np.random.Generator
) -> PromptView:
    from learner.model.student import prompt_positions

    height = max(1, round(math.sqrt(image_tokens / 1.4)))  # a picture of 7 : 5
    width = max(1, round(image_tokens / height))
    grid = torch.tensor([[1, 2 * height, 2 * width]])
    ids = torch.from_numpy(
        np.concatenate([[7], np.full(height * width, IMAGE_TOKEN), [8], question])
    )
    types = (ids == IMAGE_TOKEN).long()
    shape = (height * PATCHING.side * 2, width * PATCHING.side * 2, 3)
    pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    return PromptView(ids, prompt_positions(model, ids, types, grid), pixels, grid, PATCHING)


def make_config(lengths: Lengths, groups: int, dtype: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"dtype": dtype},
            "learner": {
                "groups_per_step": groups,
                "micro_batch_tokens": lengths.micro_batch_tokens,
                "teacher_batch_tokens": 2 * lengths.micro_batch_tokens,
            },
            "optimizer": {"warmup_steps": 0, "warmup_from_zero": False},
            "objective": {"importance_clip": 2.0},
        }
    )
