"""Which weights stay float32 where all others are bfloat16. Push, checksum and export ask here.

The gated delta net of Qwen3.5 decays its state by exp(-exp(A_log) ...): rounding A_log to bfloat16
changes what is remembered over a whole prompt. SGLang 0.5.23 therefore keeps A_log in float32
whatever its --dtype (srt/models/qwen3_5.py), and its checksums are over those bytes. The published
Qwen3.5 files hold A_log and the gated norm's weight in float32; SGLang takes the latter down to its
dtype.
"""

import re

_SERVED = re.compile(r"\.linear_attn\.A_log$")
_STORED = re.compile(r"\.linear_attn\.(A_log|norm\.weight)$")


def is_served_in_float32(name: str) -> bool:
    """Whether a server holds this tensor in float32, whatever it was told. By any of its names."""
    return _SERVED.search(name) is not None


def is_stored_in_float32(name: str) -> bool:
    """Whether files hold this tensor in float32 beside others in bfloat16. By state_dict name."""
    return _STORED.search(name) is not None
