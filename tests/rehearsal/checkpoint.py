"""A tiny random checkpoint with everything that the hub's folder of a Qwen3.5 has.

    python -m tests.rehearsal.checkpoint FOLDER

Weights are bfloat16 but for A_log and the gated norm, which are float32 with values that bfloat16
does not have; the head is tied and stands in no file; a head for multi-token prediction, which
transformers ignores, stands in them. What is small: 4 layers, hidden 64, a few hundred tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.weight_dtypes import is_stored_in_float32
from tests.rehearsal.tokens import CONTROL_TOKENS, NUM_PIECES, write_tokenizer

HIDDEN = 64
PATCH = 16  # pixels, as published: a real photograph has as many image tokens as with the 4B
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
INDEX = "model.safetensors.index.json"

_VOCABULARY = -(-(NUM_PIECES + len(CONTROL_TOKENS)) // 128) * 128  # padded, as published
_TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_output_gate": True,
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "layer_types": [*["linear_attention"] * 3, "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": _VOCABULARY,
}
_VISION = {
    "deepstack_visual_indexes": [],
    "depth": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "model_type": "qwen3_5",
    "num_heads": 2,
    "num_position_embeddings": 2304,
    "out_hidden_size": HIDDEN,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_PIXELS = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "merge_size": 2,
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "processor_class": "Qwen3VLProcessor",
}


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Writes the folder, which must not exist; the same seed gives the same weights."""
    folder.mkdir(parents=True)
    template = TEMPLATE.read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ids = write_tokenizer(folder, template)
    config = _config(ids)
    documents = {
        "config.json": config,
        "generation_config.json": _generation(ids),
        "preprocessor_config.json": {
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            **_PIXELS,
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        "video_preprocessor_config.json": {
            "size": {"longest_edge": 25165824, "shortest_edge": 4096},
            **_PIXELS,
            "video_processor_type": "Qwen3VLVideoProcessor",
        },
    }
    for name, document in documents.items():
        _write(folder / name, document)
    _write_side_files(folder)
    _write_weights(folder, _weights(config, torch.Generator().manual_seed(seed)))
    return folder


def _config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "image_token_id": ids["<|image_pad|>"],
        "model_type": "qwen3_5",
        "text_config": {**_TEXT, "eos_token_id": ids["<|endoftext|>"]},
        "tie_word_embeddings": True,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": _VISION,
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
    }


def _generation(ids: dict[str, int]) -> dict[str, Any]:
    """With sampling settings that must reach neither rollout nor greedy measuring."""
    return {
        "bos_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
        "repetition_penalty": 1.05,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "transformers_version": "4.57.0.dev0",
    }


# ---- weights -------------------------------------------------------------------------------------
def _weights(config: dict[str, Any], chance: torch.Generator) -> dict[str, Tensor]:
    """By the names that files have; every tensor in the dtype that files have."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    with torch.device("meta"):
        model = Qwen3_5ForConditionalGeneration(Qwen3_5Config.from_dict(config))
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    del shapes["lm_head.weight"]  # tied
    shapes |= _prediction_head(shapes)
    return {name: _draw(name, shape, chance) for name, shape in sorted(shapes.items())}


def _prediction_head(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Multi-token prediction: one layer of attention, and what joins two inputs to its one."""
    layer = "model.language_model.layers.3."
    found = {
        f"mtp.layers.0.{name.removeprefix(layer)}": shape
        for name, shape in shapes.items()
        if name.startswith(layer)
    }
    norms = ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")
    return {
        **found,
        "mtp.fc.weight": (HIDDEN, 2 * HIDDEN),
        **{f"mtp.{name}.weight": (HIDDEN,) for name in norms},
    }


def _draw(name: str, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=chance)
    if name.endswith(".A_log"):
        return (noise.sigmoid() * 16).log()
    if name.endswith(".linear_attn.norm.weight"):
        return 1 + noise / 10
    assert not is_stored_in_float32(name), name
    return _bfloat16_weight(name, noise).bfloat16()


def _bfloat16_weight(name: str, noise: Tensor) -> Tensor:
    """Such that bfloat16 costs little, the picture matters, and logits differ by a few nats."""
    if name.endswith(("embed_tokens.weight", "pos_embed.weight")):
        return noise / 5  # normed hidden states of 64 values: logits with a deviation of 1.6
    if name.endswith(".dt_bias"):
        # States of linear attention last for a whole picture. One that is forgotten at once is a
        # single product near 0, which the gated norm blows up, with its rounding.
        return noise / 4 - 6
    if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
        return noise / noise[0].numel() ** 0.5 / 4
    if noise.ndim > 1:
        return noise / noise[0].numel() ** 0.5
    is_around_one = ".visual." in name and "norm" in name and name.endswith("weight")
    return noise / 10 + float(is_around_one)


# ---- files ---------------------------------------------------------------------------------------
def _write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Two parts, under the names that Qwen3.5's have."""
    from safetensors.torch import save_file

    names = list(weights)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    places = {}
    for number, half in enumerate(halves, start=1):
        file = f"model.safetensors-{number:05d}-of-{len(halves):05d}.safetensors"
        save_file({name: weights[name] for name in half}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(half, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    _write(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _write_side_files(folder: Path) -> None:
    about = "---\nlicense: apache-2.0\npipeline_tag: image-text-to-text\n---\n\n# Random weights\n"
    (folder / "README.md").write_text(about, encoding="utf-8")
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n", encoding="utf-8")


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(make_checkpoint(Path(sys.argv[1])))
