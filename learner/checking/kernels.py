"""Each kernel of a step against float32, forward and gradients, in the shapes of one group."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.config import ObjectiveSection
from common.patch_embedding import multiply_patches
from learner.checking.compared import compare
from learner.checking.findings import Finding, outcome_of
from learner.checking.fused_forms import check_fused_forms
from learner.checking.plain import branch_convolution, gated_delta_rule, masked_attention, tree_mask
from learner.checking.sizes import BRANCHES, Size
from learner.model.delta_net import follow_layouts
from learner.model.layout import plan_layout
from learner.model.tree_attention import tree_attention
from learner.objective.divergence import DIVERGENCES, bucket_logprobs
from learner.objective.head import HeadInputs
from learner.objective.loss import objective
from learner.objective.tokens import ResponseTokens, SamplingLaw
from learner.push.cuda_checksum import cuda_checksums

_TOP_K = 100


def check_kernels(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Finding]:
    """One finding a kernel.

    Args:
        dtype: of the run; on CPUs float32, whose kernels are then the reference's.
    """
    for check in (attention, delta_net, head, patch_embedding):
        torch.manual_seed(0)
        yield check(size, device, dtype)
    yield from check_fused_forms(size, device, dtype)
    yield checksum(size, device)


# ---- attention -----------------------------------------------------------------------------------
def attention(size: Size, device: torch.device, dtype: torch.dtype) -> Finding:
    """One tree: a prompt and its responses, grouped heads."""
    branches = (size.branch,) * BRANCHES
    layout = plan_layout([(size.root, branches)]).to(device)
    sees_LL = tree_mask(size.root, branches).to(device)
    kv_heads = size.heads // 4

    def kernel(query_LHD: Tensor, key_LHD: Tensor, value_LHD: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in (query_LHD, key_LHD, value_LHD))
        output, _ = tree_attention(None, q, k, v, None, size.width**-0.5, layout=layout)
        return output[0]

    def plain(query_LHD: Tensor, key_LHD: Tensor, value_LHD: Tensor) -> Tensor:
        key, value = (t.repeat_interleave(4, dim=1) for t in (key_LHD, value_LHD))
        # A head at a time: the scores of all would take tens of GB with their gradients.
        each = (
            torch.utils.checkpoint.checkpoint(
                masked_attention, query_LHD, key, value, sees_LL, slice(h, h + 1),
                use_reentrant=False,
            )
            for h in range(size.heads)
        )  # fmt: skip
        return torch.cat(list(each), dim=1)

    length = size.root + sum(branches)
    inputs = {
        "query": torch.randn(length, size.heads, size.width, device=device),
        "key": torch.randn(length, kv_heads, size.width, device=device),
        "value": torch.randn(length, kv_heads, size.width, device=device),
    }
    return compare("tree attention", kernel, plain, inputs, dtype)


# ---- gated delta net -----------------------------------------------------------------------------
def delta_net(size: Size, device: torch.device, dtype: torch.dtype) -> Finding:
    """A whole layer with two key and four value heads; its states fork at the root's end."""
    module = _delta_module(size).to(device)
    layout = plan_layout([(size.root, (size.branch,) * BRANCHES)]).to(device)
    names = [name for name, _ in module.named_parameters()]

    def kernel(hidden_LD: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        output: Tensor = functional_call(module, named, (hidden_LD[None],), {"layout": layout})
        return output[0]

    def plain(hidden_LD: Tensor, *weights: Tensor) -> Tensor:
        return _plain_delta_net(module, dict(zip(names, weights, strict=True)), hidden_LD, size)

    length = size.root + BRANCHES * size.branch
    hidden_LD = torch.randn(length, size.hidden, device=device)
    inputs = {"hidden": hidden_LD, **{n: p.detach() for n, p in module.named_parameters()}}
    return compare("gated delta net", kernel, plain, inputs, dtype)


def _delta_module(size: Size) -> Any:
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    width = min(128, size.width)
    config = Qwen3_5TextConfig(
        hidden_size=size.hidden,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=width,
        linear_value_head_dim=width,
    )
    layer = torch.nn.ModuleDict({"layer": Qwen3_5GatedDeltaNet(config, layer_idx=0)})
    follow_layouts(layer)
    return layer["layer"]


def _plain_delta_net(
    module: Any, weights: Mapping[str, Tensor], hidden_LD: Tensor, size: Size
) -> Tensor:
    projected = partial(_projected, hidden_LD, weights)
    mixed_LC = branch_convolution(
        projected("in_proj_qkv"), weights["conv1d.weight"][:, 0], size.root, BRANCHES
    )
    beta_LH = projected("in_proj_b").sigmoid()
    step_LH = functional.softplus(projected("in_proj_a").float() + weights["dt_bias"].float())
    decay_LH = -weights["A_log"].float().exp() * step_LH
    keys, values = module.key_dim, module.value_dim
    parts = torch.split(mixed_LC, [keys, keys, values], dim=-1)
    q, k, v = (part.view(len(part), -1, module.head_v_dim) for part in parts)
    q, k = (t.repeat_interleave(module.num_v_heads // module.num_k_heads, 1) for t in (q, k))
    flat = (q, k, v, decay_LH, beta_LH)
    state = hidden_LD.new_zeros(
        1, module.num_v_heads, module.head_k_dim, module.head_v_dim, dtype=torch.float32
    )
    q, k, v, decay, beta = (t[None, : size.root] for t in flat)
    roots, state = gated_delta_rule(q, k, v, decay, beta, state)
    q, k, v, decay, beta = (t[size.root :].view(BRANCHES, -1, *t.shape[1:]) for t in flat)
    branches, _ = gated_delta_rule(q, k, v, decay, beta, state.expand(BRANCHES, -1, -1, -1))
    out_LHV = torch.cat([roots[0], branches.flatten(0, 1)])
    gate_LHV = projected("in_proj_z").view(len(hidden_LD), -1, module.head_v_dim).float()
    norm = torch.rsqrt(out_LHV.pow(2).mean(-1, keepdim=True) + module.norm.variance_epsilon)
    normed_LHV = weights["norm.weight"].float() * out_LHV * norm * functional.silu(gate_LHV)
    return functional.linear(normed_LHV.flatten(1).to(hidden_LD), weights["out_proj.weight"])


def _projected(hidden_LD: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return functional.linear(hidden_LD, weights[f"{name}.weight"])


# ---- output head and objective -------------------------------------------------------------------
def head(size: Size, device: torch.device, dtype: torch.dtype) -> Finding:
    """The divergence of a response's tokens, from hidden states and the head's weight."""
    rows, top_k = size.branch, min(_TOP_K, size.vocabulary // 4)
    teacher_TD = torch.randn(rows, size.hidden, device=device)
    ids_T = torch.randint(size.vocabulary, (rows,), device=device)
    shares_T = torch.full((rows,), 1 / rows, device=device)
    section = ObjectiveSection(top_k=top_k, importance_clip=None)
    law = SamplingLaw(1.0, torch.empty(0, dtype=torch.int64, device=device))
    responses = ResponseTokens(ids_T, torch.zeros(rows, device=device), shares_T)

    def kernel(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
        student = HeadInputs(hidden_TD, weight_VD)
        teacher = HeadInputs(teacher_TD.to(hidden_TD), weight_VD.detach())
        return objective(student, ((1.0, teacher),), responses, section, law).loss

    def plain(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
        logprobs = functional.linear(hidden_TD, weight_VD).float().log_softmax(-1)
        logits = functional.linear(teacher_TD.to(hidden_TD), weight_VD.detach())
        top = logprobs.topk(top_k, dim=-1)
        of_teacher = logits.float().log_softmax(-1).gather(1, top.indices)
        student, teacher = (bucket_logprobs(x, section.tail) for x in (top.values, of_teacher))
        nats_T = DIVERGENCES[section.divergence].value(student, teacher, section)
        return (shares_T * nats_T).sum()

    scale = size.hidden**-0.5
    inputs = {
        "hidden": torch.randn(rows, size.hidden, device=device),
        "weight": torch.randn(size.vocabulary, size.hidden, device=device) * scale,
    }
    return compare("objective", kernel, plain, inputs, dtype)


# ---- vision and pushes ---------------------------------------------------------------------------
def patch_embedding(size: Size, device: torch.device, dtype: torch.dtype) -> Finding:
    """The convolution of a vision tower, as the product that the learner makes of it."""
    module = _PatchEmbed().to(device)
    multiply_patches(module)

    def kernel(patches: Tensor, weight: Tensor) -> Tensor:
        output: Tensor = functional_call(module, {"proj.weight": weight}, (patches,))
        return output

    def plain(patches: Tensor, weight: Tensor) -> Tensor:
        cubes = patches.view(-1, *weight.shape[1:])
        return functional.conv3d(cubes, weight, stride=tuple(weight.shape[2:])).flatten(1)

    inputs = {
        "patches": torch.randn(size.patches, 1536, device=device),
        "weight": torch.randn(64, 3, 2, 16, 16, device=device) / 1536**0.5,
    }
    return compare("patch embedding", kernel, plain, inputs, dtype)


class _PatchEmbed(torch.nn.Module):
    """A patch embedding as transformers' towers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Conv3d(3, 64, (2, 16, 16), stride=(2, 16, 16), bias=False)


def checksum(size: Size, device: torch.device) -> Finding:
    """The checksum of a tensor on the device, against that of the same bytes on the CPU."""
    content = torch.randint(256, (size.checksum_bytes,), dtype=torch.uint8, device=device)
    found, expected = (cuda_checksums({"w": [one]})["w"] for one in (content, content.cpu()))
    is_same = found == expected
    remark = "" if is_same else f"{found} on {device.type}, {expected} on the CPU"
    figures = {"bytes": content.numel()}
    return Finding("kernels", "checksum", outcome_of(is_same), figures, remark)
