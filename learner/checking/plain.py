"""What the kernels compute, in plain operators: slow, clear, and the same on every device.

Axes: P tokens of the root, R of all its branches, L = P + R, H heads, D of a head, K and V of a
delta net's keys and values, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def tree_mask(root: int, branches: tuple[int, ...]) -> Tensor:
    """bool [L, L]: who sees whom in one tree; a branch sees its root, and itself up to there."""
    length = root + sum(branches)
    sees_LL = torch.ones(length, length, dtype=torch.bool).tril()
    start = root
    for branch in branches:
        sees_LL[start : start + branch, root:start] = False
        start += branch
    return sees_LL


def masked_attention(
    query_LHD: Tensor, key_LHD: Tensor, value_LHD: Tensor, sees_LL: Tensor, head: slice
) -> Tensor:
    """Softmax attention of some heads with all scores at once, [L, H, D]."""
    query, key, value = (t[:, head].transpose(0, 1) for t in (query_LHD, key_LHD, value_LHD))
    scores_HLL = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    weights_HLL = scores_HLL.masked_fill(~sees_LL, float("-inf")).softmax(-1)
    output_HLD: Tensor = weights_HLL @ value
    return output_HLD.transpose(0, 1)


def gated_delta_rule(
    query_SMHK: Tensor,
    key_SMHK: Tensor,
    value_SMHV: Tensor,
    decay_SMH: Tensor,
    beta_SMH: Tensor,
    state_SHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token after the other (arXiv 2412.06464, equation 10), with queries and keys normalised.

    Args:
        decay_SMH: its logarithm.
        state_SHKV: float32, as the sum over thousands of tokens wants it.

    Returns:
        float32 [S, M, H, V] and the last state.
    """
    query, key = (_normalised(t.float()) for t in (query_SMHK, key_SMHK))
    query = query * query_SMHK.shape[-1] ** -0.5
    outputs = []
    for place in range(query.shape[1]):
        k_SHK1 = key[:, place, :, :, None]
        state_SHKV = state_SHKV * decay_SMH[:, place, :, None, None].exp()
        held_SHV = (state_SHKV * k_SHK1).sum(-2)
        change_SHV = (value_SMHV[:, place] - held_SHV) * beta_SMH[:, place, :, None]
        state_SHKV = state_SHKV + k_SHK1 * change_SHV[:, :, None]
        outputs.append((state_SHKV * query[:, place, :, :, None]).sum(-2))
    return torch.stack(outputs, dim=1), state_SHKV


def _normalised(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def branch_convolution(flat_LC: Tensor, weight_CW: Tensor, root: int, branches: int) -> Tensor:
    """Causal convolution and SiLU of a tree whose branches are equally long, [L, C].

    Every branch goes on from the end of the root.
    """
    taps = weight_CW.shape[1] - 1
    root_PC, rest = flat_LC[:root], flat_LC[root:].view(branches, -1, flat_LC.shape[1])
    before = functional.pad(root_PC, (0, 0, taps, 0))
    of_branches = torch.cat([before[-taps:].expand(branches, -1, -1), rest], dim=1)
    whole = [before[None], of_branches]
    parts = [
        functional.conv1d(part.transpose(1, 2), weight_CW[:, None], groups=len(weight_CW))
        for part in whole
    ]
    return functional.silu(torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts]))


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm of the last axis, in float32, as large as `x`."""
    x_float = x.float()
    scale = torch.rsqrt(x_float.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (weight.float() * x_float * scale).to(x.dtype)


def silu_gate(gate: Tensor, x: Tensor) -> Tensor:
    return (functional.silu(gate.float()) * x.float()).to(x.dtype)
