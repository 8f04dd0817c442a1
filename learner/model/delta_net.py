"""The gated delta net of Qwen3.5 in a packed row of trees (arXiv 2412.06464).

Its causal convolution and its recurrent state start anew at every root; a branch continues from
the convolution's taps and the state at the end of its root. Both are copied to all branches, so
that their gradients are summed there. transformers' own module would carry them from one sequence
of a row into the next. GPUs compute by the kernels of `ragged_delta_net`; here is what
defines it, and what CPUs do.
Axes: S segments, M tokens of the longest, C channels of the convolution, H heads, D of a head.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from common.families import TITLES
from common.forwards import with_forward
from learner.model import ragged_delta_net
from learner.model.layout import Batch, Layout

_PARTS = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "norm", "out_proj")


def follow_layouts(model: nn.Module) -> None:
    """Make every gated delta net of `model` compute by the layout of a row, where it gets one.

    Raises:
        ConfigError: a linear-attention layer of another form.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if not kind.endswith(("GatedDeltaNet", "LinearAttention", "Mamba2Mixer")):
            continue
        if not all(hasattr(module, part) for part in _PARTS):
            raise ConfigError(
                f"model.path: {name} is a {kind}, whose state this learner cannot reset between "
                f"sequences. Fix: choose a model of the {TITLES} family"
            )
        module.__class__ = _following(type(module))


def _following(plain: type[nn.Module]) -> type[nn.Module]:
    """`plain`, but with a layout its tokens belong to the segments of the layout."""

    def forward(
        self: Any, hidden_states: Tensor, *arguments: Any, layout: Layout | None = None, **rest: Any
    ) -> Tensor:
        if layout is None:
            output: Tensor = plain.forward(self, hidden_states, *arguments, **rest)
            return output
        return _forward(self, hidden_states, layout)

    return with_forward(plain, forward)


def _forward(module: Any, hidden_1LD: Tensor, layout: Layout) -> Tensor:
    """The layer's output, [1, L, D].

    Kernels for ragged tensors get the roots first, then the branches: each is then one slice of the
    row, whose tensors are widest inside the layer.
    """
    if not ragged_delta_net.can_run(module, hidden_1LD):
        return _computed(module, hidden_1LD, layout, _batched)
    if layout.flat_branches is None:  # the row is its roots
        return _computed(module, hidden_1LD, layout, ragged_delta_net.mixed_tokens)
    order_L = torch.cat([layout.flat_roots.tokens_T, layout.flat_branches.tokens_T])
    flat_1LD = hidden_1LD.index_select(1, order_L)
    output_1LD = _computed(module, flat_1LD, layout, ragged_delta_net.mixed_tokens)
    return output_1LD.index_select(1, layout.place_in_flat_L)


def _computed(
    module: Any, hidden_1LD: Tensor, layout: Layout, mixed_tokens: Callable[..., Tensor]
) -> Tensor:
    hidden_LD = hidden_1LD[0]
    mixed_LC = module.in_proj_qkv(hidden_LD)
    beta_LH = module.in_proj_b(hidden_LD).sigmoid()
    # From the float32 masters, also where all else is bfloat16: `common.weight_dtypes`.
    step_LH = functional.softplus(module.in_proj_a(hidden_LD).float() + module.dt_bias)
    decay_LH = -module.A_log.float().exp() * step_LH
    out_LHD = mixed_tokens(module, mixed_LC, decay_LH, beta_LH, layout)
    gate_LHD = module.in_proj_z(hidden_LD).unflatten(-1, (-1, module.head_v_dim))
    normed_LHD = module.norm(out_LHD.flatten(0, 1), gate_LHD.flatten(0, 1)).view_as(out_LHD)
    # A new row, not a view of one: FSDP2 puts its hooks on what a module returns.
    output_1LD: Tensor = module.out_proj(normed_LHD.flatten(1)[None])
    return output_1LD


def _batched(
    module: Any, mixed_LC: Tensor, decay_LH: Tensor, beta_LH: Tensor, layout: Layout
) -> Tensor:
    """Outputs [L, H, D] by transformers' reference, which takes a batch."""
    taps = module.conv_kernel_size - 1
    roots = layout.roots
    no_past_SKC = mixed_LC.new_zeros(len(roots.index_SM), taps, mixed_LC.shape[-1])
    root_out, state = _segments(module, roots, no_past_SKC, None, mixed_LC, decay_LH, beta_LH)
    branch_out = None
    if layout.branches is not None:
        past_SKC = _ends(layout, taps, mixed_LC)
        branch_out, _ = _segments(
            module,
            layout.branches,
            past_SKC,
            state.index_select(0, layout.root_of_branch_S),
            mixed_LC,
            decay_LH,
            beta_LH,
        )
    return layout.joined(root_out, branch_out)


def _segments(
    module: Any,
    batch: Batch,
    past_SKC: Tensor,
    state_SHDD: Tensor | None,
    mixed_LC: Tensor,
    decay_LH: Tensor,
    beta_LH: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs [S, M, H, D] of the segments of a batch, and their last states [S, H, D, D].

    A place without a token has decay 0 (in log space) and beta 0: it leaves the state alone.
    """
    convolve = _reference(module, "causal_conv1d_fn")
    apply_rule = _reference(module, "torch_chunk_gated_delta_rule")
    mixed_SCM = torch.cat([past_SKC, batch.of(mixed_LC)], dim=1).transpose(1, 2)
    mixed_SCM = convolve(
        mixed_SCM, module.conv1d.weight.squeeze(1), module.conv1d.bias, activation=module.activation
    )
    mixed_SMC = mixed_SCM[:, :, past_SKC.shape[1] :].transpose(1, 2)
    query, key, value = mixed_SMC.split([module.key_dim, module.key_dim, module.value_dim], dim=-1)
    query, key = (t.unflatten(-1, (-1, module.head_k_dim)) for t in (query, key))
    repeats = module.num_v_heads // module.num_k_heads
    output, state = apply_rule(
        query.repeat_interleave(repeats, dim=2),
        key.repeat_interleave(repeats, dim=2),
        value.unflatten(-1, (-1, module.head_v_dim)),
        g=batch.of(decay_LH),
        beta=batch.of(beta_LH),
        initial_state=state_SHDD,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return output, state


def _reference(module: Any, name: str) -> Any:
    """A function of transformers' file of the layer, not the kernel that may replace it.

    The layer's class may be wrapped in classes of FSDP2 and of this package.
    """
    files = (sys.modules[kind.__module__] for kind in type(module).__mro__)
    return inspect.unwrap(next(getattr(file, name) for file in files if hasattr(file, name)))


def _ends(layout: Layout, taps: int, mixed_LC: Tensor) -> Tensor:
    """The last `taps` inputs of each branch's root, which its convolution sees: [S, taps, C]."""
    # From what is on the device already: lists would be copied there in every layer.
    starts_S1 = layout.roots.index_SM[:, :1]
    lengths_S1 = layout.roots.is_token_SM.sum(dim=1, keepdim=True)
    place_SK = starts_S1 + lengths_S1 + torch.arange(-taps, 0, device=mixed_LC.device)
    is_token_SK = place_SK >= starts_S1  # a root may be shorter than the kernel
    ends_of_roots = Batch(place_SK * is_token_SK, is_token_SK).of(mixed_LC)
    return ends_of_roots.index_select(0, layout.root_of_branch_S)
