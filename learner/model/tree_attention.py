"""Attention in a packed row of trees: a root sees itself, a branch its root and itself, causally.

transformers' attention modules call `tree_attention` by its registered name and hand it the layout
that came with the forward pass. Three calls of a flash kernel: roots on themselves, branches on
their roots (all branches of a tree are one sequence of queries), branches on themselves. The two of
the branches are merged by their log-sum-exps: no mask, and no score that is thrown away. The
backward pass of a flash kernel works from the log-sum-exp of the whole softmax and its output, so
with the merged ones each call gives its exact part of the gradients.
Axes: L tokens of the row, H heads, K heads of keys and values, D of a head; R tokens of the roots,
B of the branches, one sequence after the other.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learner.model.batched_attention import BatchedFlash
from learner.model.layout import Layout, Sequences
from learner.model.ragged_attention import Attention, Plain, RaggedFlash, Scope

NAME = "vision_opd_tree"


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
    key_1KLD: Tensor,
    value_1KLD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **ordinary: Any,
) -> tuple[Tensor, None]:
    """Outputs [1, L, H, D]; without a layout the ordinary attention of a batch (greedy answers)."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query_1HLD, key_1KLD, value_1KLD, attention_mask, scaling=scaling, **ordinary
        )
        return output, None
    # The rotation leaves float32 where the rest is computed in bfloat16.
    query_LHD, key_LKD, value_LKD = (
        tensor[0].transpose(0, 1).to(value_1KLD.dtype)
        for tensor in (query_1HLD, key_1KLD, value_1KLD)
    )
    kernels = kernels_for(value_LKD)
    return attend(query_LHD, key_LKD, value_LKD, layout, scaling, kernels)[None], None


def kernels_for(tensor: Tensor) -> Attention:
    """The kernels for the device and the dtype of queries, keys and values."""
    if tensor.device.type == "cpu":
        return BatchedFlash()
    return RaggedFlash() if tensor.dtype in (torch.bfloat16, torch.float16) else Plain()


def attend(
    query_LHD: Tensor,
    key_LKD: Tensor,
    value_LKD: Tensor,
    layout: Layout,
    scale: float | None,
    kernels: Attention,
) -> Tensor:
    """Outputs [L, H, D] by `kernels`; differentiable in query, key and value."""
    output: Tensor = _TreeAttention.apply(query_LHD, key_LKD, value_LKD, layout, scale, kernels)  # type: ignore[no-untyped-call]
    return output


class _TreeAttention(torch.autograd.Function):
    """A row's tensors are gathered again in the backward pass: what is kept is in use anyway."""

    @staticmethod
    def forward(
        ctx: Any,
        query_LHD: Tensor,
        key_LKD: Tensor,
        value_LKD: Tensor,
        layout: Layout,
        scale: float | None,
        kernels: Attention,
    ) -> Tensor:
        roots, branches = _parts(layout, query_LHD, key_LKD, value_LKD)
        output_RHD, lse_HR = kernels.forward(_on_themselves(layout.flat_roots, scale), *roots)
        output_BHD = lse_HB = None
        if branches:
            on_roots, on_themselves = _of_branches(layout, scale)
            output_BHD, lse_HB = merged(
                kernels.forward(on_roots, branches[0], *roots[1:]),
                kernels.forward(on_themselves, *branches),
            )
        output_LHD = layout.unflattened(output_RHD, output_BHD)
        ctx.save_for_backward(query_LHD, key_LKD, value_LKD, output_LHD, lse_HR, lse_HB)
        ctx.layout, ctx.scale, ctx.kernels = layout, scale, kernels
        return output_LHD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layout, scale, kernels = ctx.layout, ctx.scale, ctx.kernels
        *row, lse_HR, lse_HB = ctx.saved_tensors
        roots, branches = _parts(layout, gradients[0].contiguous(), *row)
        to_roots = kernels.backward(_on_themselves(layout.flat_roots, scale), *roots, lse_HR)
        to_branches: Sequence[Tensor | None] = (None, None, None)
        if branches:
            on_roots, on_themselves = _of_branches(layout, scale)
            gradient, query, _, _, output = branches
            across = kernels.backward(on_roots, gradient, query, *roots[2:4], output, lse_HB)
            to_branches = kernels.backward(on_themselves, *branches, lse_HB)
            totals = (to_branches[0], *to_roots[1:])
            for total, part in zip(totals, across, strict=True):
                total += part
        row_gradients = map(layout.unflattened, to_roots, to_branches)
        return *row_gradients, None, None, None


def merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp over two sets of keys, from those over each: [T, H, D], [H, T].

    Computed in the dtype of the log-sum-exps, then rounded to that of the outputs.
    """
    lse_HT = torch.logaddexp(one[1], other[1])
    weighted = [
        output_THD * (part_HT - lse_HT).exp().T[..., None] for output_THD, part_HT in (one, other)
    ]
    return (weighted[0] + weighted[1]).to(one[0].dtype), lse_HT


def _parts(layout: Layout, *row: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The tokens of the roots in each tensor of the row, and those of the branches, if any."""
    if layout.flat_branches is None:  # the row is its roots
        return list(row), []
    roots, branches = layout.flat_roots.tokens_T, layout.flat_branches.tokens_T
    return [t.index_select(0, roots) for t in row], [t.index_select(0, branches) for t in row]


def _on_themselves(sequences: Sequences, scale: float | None) -> Scope:
    return Scope(sequences, sequences, is_causal=True, scale=scale)


def _of_branches(layout: Layout, scale: float | None) -> tuple[Scope, Scope]:
    """The scopes of branches on their roots, and of branches on themselves."""
    by_root, branches = layout.flat_branches_by_root, layout.flat_branches
    assert by_root is not None and branches is not None
    on_roots = Scope(by_root, layout.flat_roots, is_causal=False, scale=scale)
    return on_roots, _on_themselves(branches, scale)
