"""Qwen3-VL, the dense ones: features of some vision blocks join the first decoder layers."""

from typing import Any

from common.families import qwen
from common.families.family import Family, Published, ServedNames

_TITAN = "pytorch/torchtitan, experiments/qwen3_vl"
_DEEPSTACK = (5, 11, 17)


def _text(width: int, layers: int, heads: int, mlp_width: int, is_tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": mlp_width,
        "vocab_size": 151936, "tie_word_embeddings": is_tied,
    }  # fmt: skip


QWEN3_VL = Family(
    model_type="qwen3_vl",
    title="Qwen3-VL",
    placeholder=qwen.PLACEHOLDER,
    vision_tokens=qwen.VISION_TOKENS,
    fused={"Qwen3VLTextRMSNorm": "norm", "Qwen3VLTextMLP": "gate"},
    served=ServedNames(vocabularies=qwen.VOCABULARIES),
    published={
        "Qwen3-VL-2B": Published(
            _TITAN, _text(2048, 28, 16, 6144, True), qwen.tower(24, 1024, 4096, 2048, _DEEPSTACK)
        ),
        "Qwen3-VL-4B": Published(
            qwen.MEMORY,
            _text(2560, 36, 32, 9728, True),
            qwen.tower(24, 1024, 4096, 2560, _DEEPSTACK),
        ),
        "Qwen3-VL-8B": Published(
            _TITAN, _text(4096, 36, 32, 12288, False), qwen.tower(27, 1152, 4304, 4096, _DEEPSTACK)
        ),
    },
    tower_sizes=qwen.tower_sizes,
)
