"""The gated delta net by flash-linear-attention's kernels for ragged tensors (fla-core >= 0.6).

Of the convolution and of the delta rule one call takes all roots and one all branches: nothing is
padded, and keys and queries keep their heads. The convolution's last inputs and the delta rule's
state at the end of each root are copied to its branches; autograd sums their gradients. The host
waits for nothing: the layout knows the chunks that the kernels would else read back.
https://github.com/fla-org/flash-linear-attention
Axes: T tokens of some sequences one after the other, S of them, C channels of the convolution, W
its taps, H value heads, D of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.model import fla_kernels
from learner.model.layout import CHUNK, Layout, Sequences


def can_run(module: Any, hidden: Tensor) -> bool:
    """Whether the kernels compute this layer: fla's convolution omits activations unknown to it."""
    return fla_kernels.run_on(hidden) and module.activation in ("silu", "swish")


@dataclass(frozen=True)
class Ends:
    """What sequences leave behind, from which other sequences continue."""

    taps_SCW: Tensor
    state_SHDD: Tensor  # float32

    def of(self, root_of_branch_S: Tensor) -> "Ends":
        return Ends(
            self.taps_SCW.index_select(0, root_of_branch_S),
            self.state_SHDD.index_select(0, root_of_branch_S),
        )


def mixed_tokens(
    module: Any, mixed_LC: Tensor, decay_LH: Tensor, beta_LH: Tensor, layout: Layout
) -> Tensor:
    """Outputs [L, H, D]; here and in the arguments all roots come first, then all branches.

    Args:
        decay_LH: float32, in log space.
    """
    tokens = (mixed_LC, decay_LH, beta_LH)
    split = len(layout.flat_roots.tokens_T)
    roots = [tensor[:split] for tensor in tokens]
    out_THD, ends = sequences(module, layout.flat_roots, None, *roots)
    if layout.flat_branches is None:
        return out_THD
    begin = ends.of(layout.root_of_branch_S)
    branches = [tensor[split:] for tensor in tokens]
    branch_out_THD, _ = sequences(module, layout.flat_branches, begin, *branches)
    return torch.cat([out_THD, branch_out_THD])


def sequences(
    module: Any,
    flat: Sequences,
    begin: Ends | None,
    mixed_TC: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
) -> tuple[Tensor, Ends]:
    """Outputs [T, H, D] of sequences that continue from `begin`, or start anew; and their ends."""
    from fla.modules.causal_conv1d import causal_conv1d
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    where = {
        "cu_seqlens": flat.starts_S,
        "cu_seqlens_cpu": flat.starts_on_host,
        "chunk_indices": flat.chunks_N,
    }
    mixed_1TC, taps_SCW = causal_conv1d(
        mixed_TC[None],
        module.conv1d.weight.squeeze(1),
        module.conv1d.bias,
        activation="silu",
        initial_state=begin and begin.taps_SCW,
        output_final_state=True,
        **where,
    )
    query, key, value = mixed_1TC.split([module.key_dim, module.key_dim, module.value_dim], dim=-1)
    output_1THD, state_SHDD = chunk_gated_delta_rule(
        query.unflatten(-1, (-1, module.head_k_dim)),
        key.unflatten(-1, (-1, module.head_k_dim)),
        value.unflatten(-1, (-1, module.head_v_dim)),
        decay_TH[None],
        beta_TH[None],
        initial_state=begin and begin.state_SHDD,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
        chunk_size=CHUNK,
        **where,
    )
    return output_1THD[0], Ends(taps_SCW, state_SHDD)
