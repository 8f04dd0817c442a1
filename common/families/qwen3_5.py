"""Qwen3.5, and the dense Qwen3.6 and Qwen3.8, which are of its class.

Three of four decoder layers are gated delta nets (arXiv 2412.06464), which decay their state by
exp(-exp(A_log) ...): rounding A_log to bfloat16 changes what is remembered over a whole prompt.
SGLang 0.5.23 therefore keeps A_log in float32 whatever its --dtype (srt/models/qwen3_5.py), and its
checksums are over those bytes. The published files hold A_log and the gated norm's weight in
float32; SGLang takes the latter down to its dtype. The learner computes with float32 `dt_bias` as
well, sharded or not; SGLang holds it in its dtype, and is sent it so.
"""

from typing import Any

from common.families import qwen
from common.families.family import (
    FUSED,
    VISION_QKV,
    Family,
    Float32Names,
    Published,
    ServedNames,
    SglangOnCpu,
)

_DEFAULT = "defaults of transformers' Qwen3_5TextConfig and Qwen3_5VisionConfig"


def _text(width: int, mlp_width: int, is_tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": mlp_width,
        "vocab_size": 248320, "tie_word_embeddings": is_tied,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 8,
        "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128,
    }  # fmt: skip


QWEN3_5 = Family(
    model_type="qwen3_5",
    title="Qwen3.5",
    placeholder=qwen.PLACEHOLDER,
    vision_tokens=qwen.VISION_TOKENS,
    layer_kinds=("full_attention", "linear_attention"),
    fused={
        "Qwen3_5RMSNorm": "zero_centred_norm",
        "Qwen3_5RMSNormGated": "gated_norm",
        "Qwen3_5MLP": "gate",
    },
    float32=Float32Names(
        served=(".linear_attn.A_log",),
        computed=(".linear_attn.A_log", ".linear_attn.dt_bias"),
        stored=(".linear_attn.A_log", ".linear_attn.norm.weight"),
    ),
    served=ServedNames(
        fused={
            **FUSED,
            "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
            "in_proj_ba": ("in_proj_b", "in_proj_a"),
        },
        # A hybrid keeps the attention of its other layers without another name.
        renamed=(VISION_QKV, (r"^(model\.layers\.\d+)\.self_attn\.", r"\1.")),
        vocabularies=qwen.VOCABULARIES,
    ),
    sglang_cpu=SglangOnCpu(
        flags={"--mamba-ssm-dtype": "float32"},
        # States cannot be snapshotted on a CPU, which scheduling ahead would need.
        switches=("--disable-overlap-schedule",),
        environment={"SGLANG_MAMBA_CONV_DTYPE": "float32"},
    ),
    published={
        "Qwen3.5-4B": Published(
            qwen.MEMORY, _text(2560, 9216, True), qwen.tower(24, 1024, 4096, 2560)
        ),
        "Qwen3.5-9B": Published(
            _DEFAULT, _text(4096, 12288, False), qwen.tower(27, 1152, 4304, 4096)
        ),
    },
    gates_attention=True,
    tower_sizes=qwen.tower_sizes,
)
