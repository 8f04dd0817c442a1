"""What SGLang takes from sgl-kernel on a CPU, in plain PyTorch.

PyPI has that package for CUDA only. SGLang binds these names when the processor of any Qwen model
is imported; the bodies run for Qwen3.5 alone. All else on a CPU without AMX is PyTorch in SGLang.

    mamba       the recurrent layers of Qwen3.5 (gated delta net)
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import mamba

__version__ = "0.0.0+cpu"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Names that SGLang imports on a CPU but calls only in features that we refuse."""
    if not name.endswith("_cpu"):  # SGLang takes the ImportError as "no CUDA here"
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} has no stand-in for CPUs")

    return missing


def _fused_sigmoid_mul(x: Tensor, gate: Tensor) -> None:
    x.mul_(torch.sigmoid(gate.reshape(x.shape).float()).to(x.dtype))


def _gemma_rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm whose stored weight is the difference from one."""
    exact = x.float()
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    return (exact * (1.0 + weight.float())).to(x.dtype)


def _qk_gemma_rmsnorm(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, head_dim: int
) -> tuple[Tensor, Tensor]:
    return (
        _gemma_rmsnorm(q.reshape(-1, head_dim), q_weight, eps),
        _gemma_rmsnorm(k.reshape(-1, head_dim), k_weight, eps),
    )


def _qk_gemma_rmsnorm_with_gate(
    q_gate: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    head_dim: int,
    num_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`_qk_gemma_rmsnorm` where query and gate lie side by side in each head."""
    q, gate = q_gate.reshape(-1, num_heads, 2 * head_dim).chunk(2, dim=-1)
    return *_qk_gemma_rmsnorm(q, k, q_weight, k_weight, eps, head_dim), gate.contiguous()


def _split_qkvz_and_ba(
    qkvz: Tensor, ba: Tensor, k_heads: int, v_heads: int, k_dim: int, v_dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(qkv, z, b, a) of a linear-attention layer from its two projections."""
    v_size = v_heads * v_dim
    qkv, z = qkvz.split([2 * k_heads * k_dim + v_size, v_size], dim=-1)
    b, a = ba.split([v_heads, v_heads], dim=-1)
    return (
        qkv.contiguous(),
        z.reshape(len(qkvz), v_heads, v_dim),
        b.contiguous(),
        a.contiguous(),
    )


_OPERATORS: dict[str, Callable[..., Any]] = {
    "fused_sigmoid_mul_cpu": _fused_sigmoid_mul,
    "fused_qk_gemma_rmsnorm_cpu": _qk_gemma_rmsnorm,
    "fused_qk_gemma_rmsnorm_with_gate_cpu": _qk_gemma_rmsnorm_with_gate,
    "fused_qkvzba_split_reshape_cat_contiguous_cpu": _split_qkvz_and_ba,
    "fused_gdn_gating_cpu": mamba.gdn_gating,
    "fused_sigmoid_gating_delta_rule_update_cpu": mamba.gated_delta_rule_update,
}
for _name, _function in _OPERATORS.items():
    setattr(torch.ops.sgl_kernel, _name, _function)
