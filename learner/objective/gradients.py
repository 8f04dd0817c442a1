"""The gradients of hidden states and head, added up chunk by chunk.

Axes: T rows of a chunk, D hidden size, V vocabulary, S a slice of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.objective.head import HeadInputs, multiplies_wide, slices, wide_dtype


class Gradients:
    """The gradients of hidden states, weight and bias, as far as they are needed.

    Those of the head are sums over chunks: they are held in float32 (float64) whatever the dtype of
    the products.

    Args:
        student: as constants, the weight in the dtype of the hidden states.
        needs: whether those of hidden states, weight and bias are wanted.
    """

    def __init__(self, student: HeadInputs, needs: Sequence[bool]) -> None:
        self._student = student
        hidden_TD, weight_VD, bias_V = student.hidden_TD, student.weight_VD, student.bias_V
        needs_hidden, needs_weight, needs_bias = needs
        wide = wide_dtype(student)
        self._hidden_TD = torch.empty_like(hidden_TD) if needs_hidden else None
        self._weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None
        self._bias_V = (
            torch.zeros_like(bias_V, dtype=wide) if needs_bias and bias_V is not None else None
        )
        self._is_taken = False

    def add(self, rows: slice, gradient_TV: Tensor, width: int) -> None:
        """Add those of some rows, given d loss / d (hidden @ weight.T + bias). Each row comes once.

        Args:
            width: columns of scratch that may exist at a time, where scratch is needed.
        """
        if self._bias_V is not None:
            self._bias_V += gradient_TV.sum(dim=0)
        hidden_TD = self._student.hidden_TD[rows]
        hidden_gradient_TD = torch.zeros_like(hidden_TD, dtype=gradient_TV.dtype)
        vocabulary = gradient_TV.shape[1]
        is_cast = gradient_TV.dtype != hidden_TD.dtype  # only then is there scratch
        for ids in slices(vocabulary, width if is_cast else vocabulary):
            gradient_TS = gradient_TV[:, ids].to(hidden_TD.dtype)
            if self._weight_VD is not None:
                _add_product(self._weight_VD[ids], gradient_TS.T, hidden_TD)
            if self._hidden_TD is not None:
                _add_product(hidden_gradient_TD, gradient_TS, self._student.weight_VD[ids])
        if self._hidden_TD is not None:
            self._hidden_TD[rows] = hidden_gradient_TD

    def take(self, factor: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients in place and hand them over, once.

        Raises:
            RuntimeError: they were taken already.
        """
        if self._is_taken:
            raise RuntimeError("the gradients of an objective were taken already: backward ran")
        self._is_taken = True
        taken = (self._hidden_TD, self._weight_VD, self._bias_V)
        for gradient in taken:
            if gradient is not None:
                gradient.mul_(factor.to(gradient.dtype))
        self._hidden_TD = self._weight_VD = self._bias_V = None
        return taken


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a copy of the product where the dtypes or the device agree."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif multiplies_wide(left):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.add_(left @ right)
