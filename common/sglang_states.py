"""How a server of a hybrid model divides its memory between recurrent states and KV. Pure.

SGLang gives states 0.9 of what it gives KV, whatever the requests are like, and then runs no more
of them than have their states (its `resolve_max_num_reqs`, 0.5.23): with Qwen3.5-4B on 80 GB fewer
than a run asks for, beside KV that is not used. Divided as requests need the two, as many run as
memory holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# States of one request, as SGLang counts them: running, cached prefix, spare, and two that are
# written in turn while the next batch is scheduled (mem_cache/kv_cache_configurator.py,
# _calculate_mamba_ratio).
SLOTS_A_REQUEST = 5
_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
_KV_WIDTH = 2  # bytes; SGLang's convolution states likewise


@dataclass(frozen=True)
class Demand:
    """What a server is asked to run at once."""

    requests: int
    prompts: int  # different ones: requests of a group share theirs
    prompt_tokens: int  # length of the longest prompt
    response_tokens: int  # length of the longest response


def state_bytes(model: Mapping[str, Any]) -> int:
    """Bytes of one slot: recurrent and convolution states of all layers.

    Args:
        model: config.json of a hybrid such as Qwen3.5.

    Raises:
        KeyError: it does not tell its sizes.
    """
    text = model.get("text_config", model)
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    values = text["linear_num_value_heads"] * text["linear_value_head_dim"]
    width = _WIDTH[text.get("mamba_ssm_dtype", "float32")]
    recurrent = int(values * text["linear_key_head_dim"] * width)
    convolution = int((2 * keys + values) * (text["linear_conv_kernel_dim"] - 1) * _KV_WIDTH)
    return _layers(text, "linear_attention") * (recurrent + convolution)


def kv_bytes(model: Mapping[str, Any]) -> int:
    """Bytes of one token in the layers with attention over all tokens. Args and Raises as above."""
    text = model.get("text_config", model)
    numbers = int(2 * text["num_key_value_heads"] * text["head_dim"])
    return _layers(text, "full_attention") * numbers * _KV_WIDTH


def memory_ratio(model: Mapping[str, Any], demand: Demand) -> float:
    """Memory of states as a multiple of that of KV (--mamba-full-memory-ratio). Raises as above."""
    tokens = demand.prompts * demand.prompt_tokens + demand.requests * demand.response_tokens
    states = demand.requests * SLOTS_A_REQUEST * state_bytes(model)
    return states / (tokens * kv_bytes(model))


def _layers(text: Mapping[str, Any], kind: str) -> int:
    return sum(each == kind for each in text["layer_types"])
