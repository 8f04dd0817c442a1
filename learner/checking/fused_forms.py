"""Norms and gates by flash-linear-attention's kernels (`learner.model.fused`), against float32.

Axes: T tokens, D width of the residual stream, H of the MLP, V of a head of a gated delta net.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.checking.compared import compare
from learner.checking.findings import Finding
from learner.checking.plain import rms_norm, silu_gate
from learner.checking.sizes import Size
from learner.model import fla_kernels
from learner.model.fused import fuse


@dataclass(frozen=True)
class Form:
    """One module of transformers, and what it computes.

    Args:
        plain: takes the module's inputs, then its weights, in their order.
        inputs: float32, of the module's forward pass.
    """

    name: str
    module: nn.Module
    plain: Callable[..., Tensor]
    inputs: dict[str, Tensor]


def check_fused_forms(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """A finding a form. CPUs have no kernels: there it is transformers' own that is compared."""
    if device.type == "cuda" and not fla_kernels.is_installed():
        remark = "flash-linear-attention is not installed: transformers' own ones compute"
        yield Finding("kernels", "fused norms and gates", "skipped", remark=remark)
        return
    torch.manual_seed(0)
    for form in _forms(size, device):
        yield _compared(form, device, dtype)


def _compared(form: Form, device: torch.device, dtype: torch.dtype) -> Finding:
    module = form.module.to(device)
    fuse(module)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def kernel(*tensors: Tensor) -> Tensor:
        given, named = tensors[: len(form.inputs)], tensors[len(form.inputs) :]
        output: Tensor = functional_call(module, dict(zip(weights, named, strict=True)), given)
        return output

    return compare(form.name, kernel, form.plain, {**form.inputs, **weights}, dtype)


def _forms(size: Size, device: torch.device) -> Iterator[Form]:
    from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

    def hidden(width: int) -> Tensor:
        return torch.randn(size.root, width, device=device)

    # Weights as a trained model has them: neither all 0 nor all 1.
    hidden_TD = {"hidden": hidden(size.hidden)}
    norm: Any = Qwen3VLTextRMSNorm(size.hidden)
    norm.weight.data.normal_(1.0, 0.1)
    yield Form("norm", norm, rms_norm, hidden_TD)

    centred: Any = qwen3_5.Qwen3_5RMSNorm(size.hidden)
    centred.weight.data.normal_(0.0, 0.1)
    yield Form("zero-centred norm", centred, lambda x, weight: rms_norm(x, 1.0 + weight.float()),
               hidden_TD)  # fmt: skip

    gated: Any = qwen3_5.Qwen3_5RMSNormGated(min(128, size.width))
    gated.weight.data.normal_(1.0, 0.1)
    of_head_TV = {"hidden": hidden(len(gated.weight)), "gate": hidden(len(gated.weight))}
    yield Form("gated norm", gated, lambda x, gate, weight: silu_gate(gate, rms_norm(x, weight)),
               of_head_TV)  # fmt: skip

    mlp = qwen3_5.Qwen3_5MLP(Qwen3_5TextConfig(hidden_size=size.hidden), 4 * size.hidden)
    yield Form("gate of an MLP", mlp, _plain_mlp, hidden_TD)


def _plain_mlp(hidden_TD: Tensor, gate_HD: Tensor, up_HD: Tensor, down_DH: Tensor) -> Tensor:
    return silu_gate(hidden_TD @ gate_HD.T, hidden_TD @ up_HD.T) @ down_DH.T
