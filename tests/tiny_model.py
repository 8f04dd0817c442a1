"""A tiny random Qwen3-VL with tokenizer, processor and template, made in a second for tests."""

from pathlib import Path

import torch

import common.torchvision_compat  # noqa: F401  (must come before transformers)

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = ("user", "assistant", "which", "digit", "is", "on", "the", "red", "blue", "tag", "?")
DIGITS = tuple("0123456789")
TEMPLATE = (
    "{%- for message in messages -%}<|im_start|> {{ message.role }} "
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|> <|image_pad|> <|vision_end|> "
    "{% else %}{{ part.text }} {% endif %}"
    "{% endfor %}<|im_end|> {% endfor -%}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
PROBLEM = "<image>which digit is on the red tag ?"


def make_tiny_checkpoint(folder: Path, seed: int = 0, tie_head: bool = True) -> Path:
    """Writes a Hugging Face folder: 2 layers, hidden 32, patch 8, word-level vocabulary."""
    from transformers import Qwen3VLForConditionalGeneration

    processor = _processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer, tie_head))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    words = [*SPECIAL, *WORDS, *DIGITS]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIAL[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, temporal_patch_size=2, min_pixels=256, max_pixels=2**20
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            additional_special_tokens=list(SPECIAL),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
        ),
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def _config(tokenizer, tie_head: bool):
    from transformers import Qwen3VLConfig

    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "rope_parameters": {**rope, "mrope_interleaved": True},
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": tie_head,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=tie_head,
    )
