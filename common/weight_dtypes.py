"""Which weights stay float32 where all others are bfloat16: in pushes, files and forward passes.

The gated delta net of Qwen3.5 decays its state by exp(-exp(A_log) ...): rounding A_log to bfloat16
changes what is remembered over a whole prompt. SGLang 0.5.23 therefore keeps A_log in float32
whatever its --dtype (srt/models/qwen3_5.py), and its checksums are over those bytes. The published
Qwen3.5 files hold A_log and the gated norm's weight in float32; SGLang takes the latter down to its
dtype. The learner computes with float32 `dt_bias` as well, sharded or not; SGLang holds it in its
dtype, and is sent it so.
"""

import re

_SERVED = re.compile(r"\.linear_attn\.A_log$")
_COMPUTED = re.compile(r"\.linear_attn\.(A_log|dt_bias)$")
_STORED = re.compile(r"\.linear_attn\.(A_log|norm\.weight)$")


def is_served_in_float32(name: str) -> bool:
    """Whether a server holds this tensor in float32, whatever it was told. By any of its names."""
    return _SERVED.search(name) is not None


def is_computed_in_float32(name: str) -> bool:
    """Whether the learner's passes take this tensor in float32. By state_dict name."""
    return _COMPUTED.search(name) is not None


def is_stored_in_float32(name: str) -> bool:
    """Whether files hold this tensor in float32 beside others in bfloat16. By state_dict name."""
    return _STORED.search(name) is not None
