"""Attention in a packed row of trees: a root sees itself, a branch its root and itself, causally.

transformers' attention modules call `tree_attention` by its registered name and hand it the layout
that came with the forward pass. A branch's attention over its root and over itself are two calls of
a flash kernel, merged by their log-sum-exps: no mask, and no score that is thrown away. The
backward pass of a flash kernel works from the log-sum-exp of the whole softmax and its output, so
with the merged ones each call gives its exact part of the gradients.
Axes: H heads, L tokens of the row, G trees taken together, R tokens of a tree's branches, P of its
root, D of a head; S branches, M tokens of the longest.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from learner.model.layout import Alike, Batch, Layout

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
    repeats = query_1HLD.shape[1] // key_1HLD.shape[1]
    row = (
        query_1HLD[0].transpose(0, 1),
        key_1HLD[0].transpose(0, 1).repeat_interleave(repeats, dim=1),
        value_1HLD[0].transpose(0, 1).repeat_interleave(repeats, dim=1),
    )
    outputs, of_branches = [], []
    for alike in layout.alike:
        root = _batch(row, alike.roots)
        output = functional.scaled_dot_product_attention(*root, is_causal=True, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        if alike.branches is not None:
            attend = _merged if output.device.type == "cpu" else _masked
            output = attend(_batch(row, alike.branches), root, alike, scaling)
            of_branches.append(output.transpose(1, 2).flatten(0, 1))
    output_LHD = torch.cat([*outputs, *of_branches]).index_select(0, layout.place_in_alike_L)
    return output_LHD[None], None


def _batch(row: Arguments, batch: Batch) -> Arguments:
    """[L, H, D] each -> [G, H, tokens, D] each."""
    query, key, value = (batch.of(tensor).transpose(1, 2) for tensor in row)
    return query, key, value


# ---- branches: one call with a mask --------------------------------------------------------------
def _masked(branches: Arguments, root: Arguments, alike: Alike, scale: float | None) -> Tensor:
    """For devices whose flash kernels do not show their log-sum-exp in a stable way."""
    query, key, value = branches
    return functional.scaled_dot_product_attention(
        query,
        torch.cat([root[1], key], dim=2),
        torch.cat([root[2], value], dim=2),
        attn_mask=branch_mask(alike.branch_GR, root[1].shape[2]),
        scale=scale,
    )


def branch_mask(branch_GR: Tensor, root: int) -> Tensor:
    """bool [G, 1, R, P + R]: a token sees the root, and its own branch up to itself."""
    is_own_GRR = (branch_GR[:, :, None] == branch_GR[:, None, :]).tril()
    is_root_GRP = is_own_GRR.new_ones(*branch_GR.shape, root)
    return torch.cat([is_root_GRP, is_own_GRR], dim=2)[:, None]


# ---- branches: two calls, merged -----------------------------------------------------------------
def _merged(branches: Arguments, root: Arguments, alike: Alike, scale: float | None) -> Tensor:
    output: Tensor = _MergedAttention.apply(*branches, *root[1:], alike, scale)  # type: ignore[no-untyped-call]
    return output


class _MergedAttention(torch.autograd.Function):
    """Softmax over the root's keys and the branch's own, from two flash calls on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        query_GHRD: Tensor,
        key_GHRD: Tensor,
        value_GHRD: Tensor,
        key_GHPD: Tensor,
        value_GHPD: Tensor,
        alike: Alike,
        scale: float | None,
    ) -> Tensor:
        of_root, lse_of_root = _flash(query_GHRD, key_GHPD, value_GHPD, False, scale)
        of_own, lse_of_own = _flash(
            _apart(query_GHRD, alike),
            _apart(key_GHRD, alike),
            _apart(value_GHRD, alike),
            True,
            scale,
        )
        of_own, lse_of_own = (
            _together(of_own, alike),
            _together(lse_of_own[..., None], alike)[..., 0],
        )
        lse_GHR = torch.logaddexp(lse_of_root, lse_of_own)
        output = of_root * (lse_of_root - lse_GHR).exp()[..., None].to(of_root.dtype)
        output += of_own * (lse_of_own - lse_GHR).exp()[..., None].to(of_own.dtype)
        ctx.save_for_backward(
            query_GHRD, key_GHRD, value_GHRD, key_GHPD, value_GHPD, output, lse_GHR
        )
        ctx.alike, ctx.scale = alike, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, root_key, root_value, output, lse = ctx.saved_tensors
        alike: Alike = ctx.alike
        gradient = gradient.contiguous()
        to_query, to_root_key, to_root_value = _flash_backward(
            gradient, query, root_key, root_value, output, lse, False, ctx.scale
        )
        to_own_query, to_key, to_value = _flash_backward(
            _apart(gradient, alike),
            _apart(query, alike),
            _apart(key, alike),
            _apart(value, alike),
            _apart(output, alike),
            # 0 where there is no token keeps what is computed there finite.
            _apart(lse[..., None], alike)[..., 0],
            True,
            ctx.scale,
        )
        return (
            to_query + _together(to_own_query, alike),
            _together(to_key, alike),
            _together(to_value, alike),
            to_root_key,
            to_root_value,
            None,
            None,
        )


def _apart(trees_GHRD: Tensor, alike: Alike) -> Tensor:
    """Each branch by itself, [S, H, M, D]."""
    return alike.own.of(trees_GHRD.transpose(1, 2).flatten(0, 1)).transpose(1, 2)


def _together(own_SHMD: Tensor, alike: Alike) -> Tensor:
    """The inverse, [G, H, R, D]; of any value where there is no token."""
    own_THD = own_SHMD.transpose(1, 2).flatten(0, 1)
    trees_THD = own_THD.index_select(0, alike.place_GR.flatten())
    return trees_THD.view(*alike.place_GR.shape, *own_THD.shape[1:]).transpose(1, 2)


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
