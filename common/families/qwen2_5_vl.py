"""Qwen2.5-VL: its vision blocks attend within windows, but for a few, and have gated MLPs."""

from common.families import qwen
from common.families.family import Family, ServedNames

QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    title="Qwen2.5-VL",
    placeholder=qwen.PLACEHOLDER,
    vision_tokens=qwen.VISION_TOKENS,
    fused={"Qwen2_5_VLRMSNorm": "norm", "Qwen2MLP": "gate", "Qwen2_5_VLMLP": "gate"},
    served=ServedNames(
        # SGLang pads the parts of a gated MLP in the tower before it joins them.
        left_out=r"^visual\..*\.mlp\.(gate_up_proj\.|down_proj\.weight)",
        vocabularies=qwen.VOCABULARIES,
    ),
    tower_sizes=lambda _: {"is_gated": True},
)
