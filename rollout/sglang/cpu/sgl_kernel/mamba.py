"""The recurrent layers of Qwen3.5 (gated delta net) in plain PyTorch: exact and slow.

Parameter names are SGLang's, which passes most of them by name. Axes: T tokens, H key heads, HV
value heads, K and V head dimensions. States live in pools with one slot a request, are updated in
place, and a negative slot means padding.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d_fn_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    conv_states: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    cache_indices: Tensor | None = None,
    query_start_loc: Tensor | None = None,
    seq_lens_cpu: Any = None,
    **_: Any,
) -> Tensor:
    """Depthwise convolution of whole prompts, packed one after the other.

    Args:
        x: [channels, T].
        conv_states: [slots, channels, width - 1], the inputs before the next token.
    """
    assert query_start_loc is not None and conv_states is not None
    channels, width = weight.shape
    out = torch.empty_like(x)
    for index, (start, end) in enumerate(_spans(query_start_loc)):
        slot = index if cache_indices is None else int(cache_indices[index])
        if end <= start or slot < 0:
            continue
        if has_initial_state is not None and bool(has_initial_state[index]):
            past = conv_states[slot].to(x.dtype)
        else:
            past = x.new_zeros(channels, width - 1)
        inputs = torch.cat([past, x[:, start:end]], dim=1)
        convolved = F.conv1d(inputs[None], weight[:, None], bias, groups=channels)[0]
        out[:, start:end] = _activated(convolved, activation)
        conv_states[slot].copy_(inputs[:, 1 - width :])
    return out


def causal_conv1d_update_cpu(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    cache_seqlens: Any = None,
    conv_state_indices: Tensor | None = None,
    *_: Any,
    **options: Any,
) -> Tensor:
    """The same for one new token of each request. `x`: [requests, channels]."""
    if x.dim() != 2 or options.get("intermediate_conv_window") is not None:
        raise NotImplementedError("speculative decoding does not run on a CPU")
    assert conv_state_indices is not None
    slots, is_real = _slots(conv_state_indices)
    inputs = torch.cat([conv_state[slots].to(x.dtype), x.unsqueeze(-1)], dim=-1)
    out = (inputs * weight[None]).sum(-1)
    if bias is not None:
        out = out + bias
    conv_state[slots[is_real]] = inputs[is_real][:, :, 1:].to(conv_state.dtype)
    return _activated(out, activation)


def gdn_gating(
    A_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """Log of the decay and strength of the update, both [1, T, HV]."""
    log_decay = -A_log.float().exp() * F.softplus(a.float() + dt_bias.float())
    return log_decay[None], b.float().sigmoid()[None]


def chunk_gated_delta_rule_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    head_first: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    output_final_state: bool = True,
    **_: Any,
) -> tuple[Tensor, None, None]:
    """The gated delta rule over whole prompts, packed one after the other.

    Args:
        q, k, v: [1, T, H or HV, K or V].
        g, beta: [1, T, HV], log of the decay and strength of the update.
        initial_state: [slots, HV, V, K].
    """
    assert initial_state is not None and cu_seqlens is not None
    queries, keys, values = _prepared(q[0], k[0], v[0], use_qk_l2norm_in_kernel)
    log_decays, strengths = g[0].float(), beta[0].float()
    out = torch.zeros_like(values)
    for index, (start, end) in enumerate(_spans(cu_seqlens)):
        slot = index if initial_state_indices is None else int(initial_state_indices[index])
        if end <= start or slot < 0:
            continue
        state = initial_state[slot].float()
        for t in range(start, end):
            state = _next_state(state, keys[t], values[t], log_decays[t], strengths[t])
            out[t] = _read(state, queries[t])
        initial_state[slot] = state.to(initial_state.dtype)
    return out.to(v.dtype)[None], None, None


def gated_delta_rule_update(
    A_log: Tensor,
    dt_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    initial_state_source: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    cu_seqlens: Any = None,
    use_qk_l2norm_in_kernel: bool = True,
    **options: Any,
) -> Tensor:
    """One new token of each request. `q`, `k`, `v`: [1, requests, H or HV, K or V]."""
    if options.get("disable_state_update"):
        raise NotImplementedError("speculative decoding does not run on a CPU")
    assert initial_state_source is not None and initial_state_indices is not None
    queries, keys, values = _prepared(q[0], k[0], v[0], use_qk_l2norm_in_kernel)
    log_decays, strengths = (
        part[0].reshape(queries.shape[:2]) for part in gdn_gating(A_log, a, b, dt_bias)
    )
    slots, is_real = _slots(initial_state_indices)
    states = initial_state_source[slots].float()
    states = _next_state(states, keys, values, log_decays, strengths)
    initial_state_source[slots[is_real]] = states[is_real].to(initial_state_source.dtype)
    return _read(states, queries).to(v.dtype)[None]


def _next_state(
    state: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor
) -> Tensor:
    """The delta rule: let the state fade, then correct what it recalls for this key."""
    state = state * log_decay.exp()[..., None, None]
    recalled = _read(state, key)
    correction = (value - recalled) * strength[..., None]
    return state + correction[..., :, None] * key[..., None, :]


def _read(state: Tensor, query: Tensor) -> Tensor:
    return torch.einsum("...vk,...k->...v", state, query)


def _prepared(q: Tensor, k: Tensor, v: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Bring q, k, v to float32: keys and queries normalised and repeated, queries scaled."""
    q, k, v = q.float(), k.float(), v.float()
    if normalize:
        q, k = _l2_normalized(q), _l2_normalized(k)
    repeats = v.shape[-2] // q.shape[-2]
    if repeats > 1:
        q, k = q.repeat_interleave(repeats, dim=-2), k.repeat_interleave(repeats, dim=-2)
    return q * q.shape[-1] ** -0.5, k, v


def _l2_normalized(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def _activated(x: Tensor, activation: str | bool | None) -> Tensor:
    return F.silu(x) if activation in ("silu", "swish", True) else x


def _spans(starts: Tensor) -> list[tuple[int, int]]:
    """Pairs (start, end) of each packed sequence."""
    return list(itertools.pairwise(starts.tolist()))


def _slots(indices: Tensor) -> tuple[Tensor, Tensor]:
    """Usable slots, and which of them are no padding."""
    return indices.long().clamp(min=0), indices >= 0
