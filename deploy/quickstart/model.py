"""A Qwen3-VL of 1.4 million parameters, and how it is stored as a Hugging Face folder."""

import copy
from pathlib import Path
from typing import Any

import torch

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from deploy.quickstart.processor import MERGE, PATCH


def make_model(tokenizer: Any, seed: int) -> Any:
    """A Qwen3-VL of about a million parameters with random float32 weights, the same per seed."""
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=16,
    )
    return model


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig

    token_id = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5]}
    deviation = 0.05  # of the weights at the start; the usual 0.02 learns more slowly at this size
    text = {
        "vocab_size": 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {**rope, "mrope_interleaved": True},
        "initializer_range": deviation,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 400,
        "deepstack_visual_indexes": [0],
        "initializer_range": deviation,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def save_checkpoint(folder: Path, model: Any, processor: Any) -> None:
    """Write a Hugging Face folder; the weights are stored in bfloat16."""
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.save_pretrained(folder)
    processor.save_pretrained(folder)
