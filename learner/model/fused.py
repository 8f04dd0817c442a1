"""Norms and gates of transformers' models by flash-linear-attention's kernels, where those run.

Plain, each is some ten passes over the activations. Fused, each is one, and rounds once, at the
end: transformers rounds a plain norm before its weight, and a gated one before its gate. Modules
that no family names (`Family.fused`) compute as transformers has them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from common.families import FAMILIES
from common.families.family import FusedForm
from common.forwards import with_forward
from learner.model import fla_kernels

Forward = Callable[..., Tensor]


def fuse(model: nn.Module) -> None:
    """Bind the modules of `model` that have a fused form to it; their parameters stay as named."""
    for module in model.modules():
        if fused := _form_of(module):
            module.__class__ = _fused(type(module), fused)


def _form_of(module: Any) -> Forward | None:
    form = FORMS.get(type(module).__name__)
    if form is _gate and type(module.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return None
    return form


def _fused(plain: type[nn.Module], fused: Forward) -> type[nn.Module]:
    def forward(self: Any, hidden: Tensor, *gate: Tensor) -> Tensor:
        compute = fused if fla_kernels.run_on(hidden) else plain.forward
        return compute(self, hidden, *gate)

    return with_forward(plain, forward)


def _norm(module: Any, hidden: Tensor) -> Tensor:
    from fla.modules.norm.layernorm import rms_norm

    normed: Tensor = rms_norm(hidden, module.weight, None, eps=module.variance_epsilon)
    return normed


def _zero_centred_norm(module: Any, hidden: Tensor) -> Tensor:
    """Norm by 1 + weight in float32: bfloat16 would lose what of the weight is below 2^-8."""
    from fla.modules.norm.layernorm import rms_norm

    normed: Tensor = rms_norm(hidden, 1.0 + module.weight.float(), None, eps=module.eps)
    return normed


def _gated_norm(module: Any, hidden: Tensor, gate: Tensor) -> Tensor:
    from fla.modules.norm.fused_norm_gate import rms_norm_gated

    normed: Tensor = rms_norm_gated(
        hidden, gate, module.weight, None, module.activation, eps=module.variance_epsilon
    )
    return normed


def _gate(module: Any, hidden: Tensor) -> Tensor:
    from fla.modules.activations import swiglu

    output: Tensor = module.down_proj(swiglu(module.gate_proj(hidden), module.up_proj(hidden)))
    return output


_FORMS: Mapping[FusedForm, Forward] = {
    "norm": _norm,
    "zero_centred_norm": _zero_centred_norm,
    "gated_norm": _gated_norm,
    "gate": _gate,
}
FORMS: Mapping[str, Forward] = {
    name: _FORMS[form] for family in FAMILIES.values() for name, form in family.fused.items()
}
"""Forms by the names of transformers' classes; no name means different things in two families."""
