"""A computation held to a reference in higher precision, forward and backward."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from learner.checking.findings import Finding, outcome_of

# A kernel may round otherwise than plain operators of its dtype, but not much worse.
_ALLOWED = 4.0  # error of a kernel over that of the plain way
_FLOOR = 1e-4  # error that is allowed where the plain way is the reference itself

Computation = Callable[..., Tensor]


def compare(
    name: str,
    kernel: Computation,
    plain: Computation,
    inputs: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Finding:
    """The kernel in `dtype` and the plain way in `dtype`, both against the plain way in float32.

    Errors are norms of differences over norms, of the output and of each input's gradient. The
    kernel's may be up to 4 times the plain way's.

    Args:
        kernel: takes the inputs in their order; differentiable.
        plain: the same in plain operators.
        inputs: float32; their gradients are compared by name.
    """
    exact = _results(plain, inputs, torch.float32)
    rounded = exact if dtype == torch.float32 else _results(plain, inputs, dtype)
    found = _results(kernel, inputs, dtype)
    figures: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    failed = []
    for part in exact:
        error = relative_error(found[part], exact[part])
        of_plain = relative_error(rounded[part], exact[part])
        figures[f"{part}_error"], figures[f"{part}_error_of_plain"] = error, of_plain
        if not error <= _ALLOWED * of_plain + _FLOOR:  # NaN fails, too
            failed.append(part)
    remark = f"too far from the float32 reference: {', '.join(failed)}" if failed else ""
    return Finding("kernels", name, outcome_of(not failed), figures, remark)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm; of two zeros it is 0."""
    difference = (found.double() - exact.double()).norm()
    return float(difference / exact.double().norm().clamp_min(1e-30))


def _results(
    compute: Computation, inputs: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
    output = compute(*leaves.values())
    direction = torch.Generator().manual_seed(1)  # one direction for all computations
    towards = torch.randn(output.shape, generator=direction).to(output)
    gradients = torch.autograd.grad(output, list(leaves.values()), towards)
    named = {f"gradient_of_{name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {"output": output.detach(), **named}
