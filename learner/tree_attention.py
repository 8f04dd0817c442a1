"""Attention in a packed row of trees: a root sees itself, a branch its root and itself, causally.

transformers' attention modules call `tree_attention` by its registered name and hand it the layout
that came with the forward pass. A branch's attention over its root and over itself are two calls of
a flash kernel, merged by their log-sum-exps: no mask, and no score that is thrown away. The
backward pass of a flash kernel works from the log-sum-exp of the whole softmax and its output, so
with the merged ones each call gives its exact part of the gradients.
Axes: H heads, L tokens of the row, R tokens of a tree's branches, P of its root, D of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from learner.layout import Layout, Tree, plan_layout

NAME = "vision_opd_tree"
Arguments = tuple[Tensor, Tensor, Tensor]  # query, key, value


def register() -> str:
    """Make the kernel known to transformers; its name for `attn_implementation`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def tree_attention(
    module: Any,
    query_1HLD: Tensor,
    key_1HLD: Tensor,
    value_1HLD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **ordinary: Any,
) -> tuple[Tensor, None]:
    """[1, L, H, D]; without a layout the ordinary attention of a batch (greedy answers)."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query_1HLD, key_1HLD, value_1HLD, attention_mask, scaling=scaling, **ordinary
        )
        return output, None
    # The rotation leaves float32 where the rest is computed in bfloat16.
    query_1HLD, key_1HLD = query_1HLD.to(value_1HLD.dtype), key_1HLD.to(value_1HLD.dtype)
    groups = query_1HLD.shape[1] // key_1HLD.shape[1]
    key_1HLD, value_1HLD = (t.repeat_interleave(groups, dim=1) for t in (key_1HLD, value_1HLD))
    outputs = []
    for tree in layout.trees:
        outputs += _tree((query_1HLD, key_1HLD, value_1HLD), tree, scaling)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _tree(row: Arguments, tree: Tree, scale: float | None) -> list[Tensor]:
    """Outputs of a root and, if it has any, of its branches: [1, H, tokens, D] each."""
    root = _part(row, tree.start, tree.branches_start)
    outputs = [functional.scaled_dot_product_attention(*root, is_causal=True, scale=scale)]
    if tree.branches:
        branches = _part(row, tree.branches_start, tree.end)
        attend = _merged if branches[0].device.type == "cpu" else _masked
        outputs.append(attend(branches, root, tree.branches, scale))
    return outputs


def _part(row: Arguments, start: int, end: int) -> Arguments:
    query, key, value = (tensor[:, :, start:end] for tensor in row)
    return query, key, value


# ---- branches: one call with a mask --------------------------------------------------------------
def _masked(
    branches: Arguments, root: Arguments, lengths: tuple[int, ...], scale: float | None
) -> Tensor:
    """For devices whose flash kernels do not show their log-sum-exp in a stable way."""
    query, key, value = branches
    is_seen = branch_mask(lengths, root[0].shape[2], query.device)
    return functional.scaled_dot_product_attention(
        query,
        torch.cat([root[1], key], dim=2),
        torch.cat([root[2], value], dim=2),
        attn_mask=is_seen,
        scale=scale,
    )


def branch_mask(lengths: tuple[int, ...], root: int, device: torch.device) -> Tensor:
    """bool [R, P + R]: a branch's token sees the root, and its own branch up to itself."""
    number_R = torch.repeat_interleave(torch.tensor(lengths, device=device))
    is_own_RR = (number_R[:, None] == number_R[None]).tril()
    return torch.cat([is_own_RR.new_ones(len(number_R), root), is_own_RR], dim=1)


# ---- branches: two calls, merged -----------------------------------------------------------------
def _merged(
    branches: Arguments, root: Arguments, lengths: tuple[int, ...], scale: float | None
) -> Tensor:
    output: Tensor = _MergedAttention.apply(*branches, *root[1:], lengths, scale)  # type: ignore[no-untyped-call]
    return output


class _MergedAttention(torch.autograd.Function):
    """Softmax over the root's keys and the branch's own, from two flash calls on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        query_1HRD: Tensor,
        key_1HRD: Tensor,
        value_1HRD: Tensor,
        key_1HPD: Tensor,
        value_1HPD: Tensor,
        lengths: tuple[int, ...],
        scale: float | None,
    ) -> Tensor:
        own = _Own(lengths, query_1HRD.device)
        of_root, lse_of_root = _flash(query_1HRD, key_1HPD, value_1HPD, False, scale)
        of_own, lse_of_own = _flash(
            own.batch(query_1HRD), own.batch(key_1HRD), own.batch(value_1HRD), True, scale
        )
        of_own, lse_of_own = own.row(of_own), own.row(lse_of_own[..., None])[..., 0]
        lse_1HR = torch.logaddexp(lse_of_root, lse_of_own)
        output = of_root * (lse_of_root - lse_1HR).exp()[..., None].to(of_root.dtype)
        output += of_own * (lse_of_own - lse_1HR).exp()[..., None].to(of_own.dtype)
        ctx.save_for_backward(
            query_1HRD, key_1HRD, value_1HRD, key_1HPD, value_1HPD, output, lse_1HR
        )
        ctx.own, ctx.scale = own, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, root_key, root_value, output, lse = ctx.saved_tensors
        own: _Own = ctx.own
        gradient = gradient.contiguous()
        to_query, to_root_key, to_root_value = _flash_backward(
            gradient, query, root_key, root_value, output, lse, False, ctx.scale
        )
        to_own_query, to_key, to_value = _flash_backward(
            own.batch(gradient),
            own.batch(query),
            own.batch(key),
            own.batch(value),
            own.batch(output),
            # 0 where there is no token keeps what is computed there finite.
            own.batch(lse[..., None])[..., 0],
            True,
            ctx.scale,
        )
        return (
            to_query + own.row(to_own_query),
            own.row(to_key),
            own.row(to_value),
            to_root_key,
            to_root_value,
            None,
            None,
        )


class _Own:
    """The branches of one tree, [1, H, R, D] in the row, as a batch [S, H, M, D] and back."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device) -> None:
        layout = plan_layout([(length, ()) for length in lengths]).to(device)
        self._roots, self._joined = layout.roots, layout.joined

    def batch(self, row_1HRD: Tensor) -> Tensor:
        return self._roots.of(row_1HRD[0].transpose(0, 1)).transpose(1, 2)

    def row(self, batch_SHMD: Tensor) -> Tensor:
        return self._joined(batch_SHMD.transpose(1, 2), None).transpose(0, 1)[None]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output [B, H, L, D] and log-sum-exp of the scores [B, H, L]."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, scale=scale
    )
    return output, lse


def _flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """To query, key and value."""
    to_query, to_key, to_value = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, lse, 0.0, is_causal, scale=scale
        )
    )
    return to_query, to_key, to_value
