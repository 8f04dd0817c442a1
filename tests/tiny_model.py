"""Tiny random Qwen-VL models with tokenizer, processor and template, made in a second for tests."""

import json
from pathlib import Path

import torch

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.weight_dtypes import is_stored_in_float32

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


# transformers' model types. SGLang takes Qwen2.5-VL's patch size for granted.
PATCH_SIZES = {"qwen3_vl": 8, "qwen2_5_vl": 14, "qwen3_5": 8, "glm4v": 8}
FAMILIES = tuple(PATCH_SIZES)


def make_tiny_checkpoint(
    folder: Path, seed: int = 0, tie_head: bool = True, family: str = "qwen3_vl"
) -> Path:
    """Writes a Hugging Face folder: hidden 32, 2 or 4 layers, patch 8, word-level vocabulary."""
    from transformers import AutoModelForImageTextToText

    processor = _processor(family)
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(_CONFIGS[family](tokenizer, tie_head))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family == "qwen3_5":
        _complete_for_sglang(folder / "config.json")
    return folder


def image_start(config) -> int:
    """The token before an image's."""
    is_glm = config.model_type == "glm4v"
    return config.image_start_token_id if is_glm else config.vision_start_token_id


def store_as_published(folder: Path) -> None:
    """Rewrites a float32 folder as the hub has Qwen3.5: bfloat16, but for what stays float32.

    That is not representable in bfloat16, so that whoever rounds it is found out.
    """
    from safetensors.torch import load_file, save_file

    stored = load_file(folder / "model.safetensors")
    for name, tensor in stored.items():
        if is_stored_in_float32(name):
            stored[name] = tensor + 1e-3 * torch.linspace(0.1, 0.9, tensor.numel()).view_as(tensor)
        else:
            stored[name] = tensor.bfloat16()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _complete_for_sglang(config_file: Path) -> None:
    """Adds what SGLang reads and transformers does not write."""
    config = json.loads(config_file.read_text())
    text = config["text_config"]
    text["full_attention_interval"] = 4
    text["linear_num_value_heads_cpu"] = text["linear_num_value_heads"]  # set with AMX only
    text["linear_num_key_heads_cpu"] = text["linear_num_key_heads"]
    config["vision_config"]["deepstack_visual_indexes"] = []  # SGLang's default has three
    config_file.write_text(json.dumps(config, indent=2))


def _processor(family: str):
    from transformers import (
        Glm4vProcessor,
        Glm4vVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    tokenizer = _tokenizer(family)
    patches = {"patch_size": PATCH_SIZES[family], "merge_size": 2, "temporal_patch_size": 2}
    if family == "glm4v":  # counts two frames
        size = {"shortest_edge": 512, "longest_edge": 2**21}
        return Glm4vProcessor(
            image_processor=Glm4vImageProcessorPil(**patches, size=size),
            tokenizer=tokenizer,
            video_processor=Glm4vVideoProcessor(),
            chat_template=_in_words_of(family, TEMPLATE),
        )
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**patches, min_pixels=256, max_pixels=2**20),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


_OF_GLM = {
    "vision_start": "begin_of_image",
    "vision_end": "end_of_image",
    "image_pad": "image",
    "video_pad": "video",
}


def _in_words_of(family: str, text: str) -> str:
    """The same with the family's own tokens."""
    for ours, theirs in _OF_GLM.items() if family == "glm4v" else ():
        text = text.replace(f"<|{ours}|>", f"<|{theirs}|>")
    return text


def _tokenizer(family: str):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [_in_words_of(family, token) for token in SPECIAL]
    more = ["<|begin_of_video|>", "<|end_of_video|>"] if family == "glm4v" else []
    words = [*special, *WORDS, *DIGITS, *more]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIAL[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    if family != "qwen3_vl":
        # SGLang finds the image in the decoded prompt, by its three tokens without a space.
        space_before_words = decoders.Replace(Regex(r"^(?=[^<])"), " ")
        tokenizer.decoder = decoders.Sequence([space_before_words, decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[*special, *more],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def _token_ids(tokenizer) -> dict[str, int]:
    ids = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _text(tokenizer, tie_head: bool) -> dict[str, object]:
    """What the text models have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": tie_head,
    }


_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
_VISION = {
    "depth": 2,
    "hidden_size": 24,
    "intermediate_size": 64,  # SGLang on a CPU pads others to a multiple of 32
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}


def _qwen3_vl(tokenizer, tie_head: bool):
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            **_text(tokenizer, tie_head),
            "head_dim": 16,
            "rope_parameters": {**_ROPE, "mrope_interleaved": True},
        },
        vision_config={
            **_VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        **_token_ids(tokenizer),
        tie_word_embeddings=tie_head,
    )  # fmt: skip


def _qwen2_5_vl(tokenizer, tie_head: bool):
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            **_text(tokenizer, tie_head),
            "bos_token_id": None,
            "rope_parameters": dict(_ROPE),
        },
        # Windows of 2 x 2 merged patches, so that a block with windows and one without differ.
        vision_config={
            **_VISION,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **_token_ids(tokenizer),
        tie_word_embeddings=tie_head,
    )


def _qwen3_5(tokenizer, tie_head: bool):
    """Three layers of gated delta net, then one of attention."""
    from transformers import Qwen3_5Config

    rope = {**_ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return Qwen3_5Config(
        text_config={
            **_text(tokenizer, tie_head),
            "num_hidden_layers": 4,
            "head_dim": 32,
            "rope_parameters": {**rope, "partial_rotary_factor": 0.25},
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        vision_config={**_VISION, "num_position_embeddings": 64},
        **_token_ids(tokenizer),
        tie_word_embeddings=tie_head,
    )


def _glm4v(tokenizer, tie_head: bool):
    from transformers import Glm4vConfig

    ids = tokenizer.convert_tokens_to_ids
    rope = {**_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    return Glm4vConfig(
        text_config={**_text(tokenizer, tie_head), "rope_parameters": rope},
        vision_config={**_VISION, "image_size": 64},
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
        tie_word_embeddings=tie_head,
    )


_CONFIGS = {
    "qwen3_vl": _qwen3_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_5": _qwen3_5, "glm4v": _glm4v,
}  # fmt: skip
