"""The output head: from hidden states to logits, for a slice of the vocabulary at a time.

A model's logits are softcap(scale * (hidden @ weight.T + bias)); the logits of a mixture of models
are the weighted sum of theirs. Axes: T rows, D hidden size, V vocabulary, S a slice of it, J ids
that are asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from common.image_text_model import ImageTextModel
from learner.model.sharding import whole_weight


@dataclass(frozen=True)
class HeadInputs:
    """One model's side of the objective.

    The logits are computed in the dtype of `hidden_TD`; the weight may have a wider one.
    """

    hidden_TD: Tensor  # the hidden states that predict the response tokens
    weight_VD: Tensor  # the output head
    bias_V: Tensor | None = None
    scale: float = 1.0  # multiplies the logits
    softcap: float | None = None  # then they become cap * tanh(logits / cap)


_MULTIPLYING_WIDE = {"cuda"}  # kinds of devices; `out_dtype` is unknown to the others

MixedHeads = tuple[tuple[float, HeadInputs], ...]
"""Models whose logits are summed with these weights; one entry with weight 1 is a model alone."""


def head_of(model: ImageTextModel, hidden_TD: Tensor) -> HeadInputs:
    """The head of a transformers model, for hidden states that it gave.

    The text config says what a family does to its logits: `final_logit_softcapping` (Gemma),
    `logit_scale`, a factor (Cohere), `logits_scaling`, a divisor (Granite).
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    bias = getattr(head, "bias", None)
    return HeadInputs(
        hidden_TD,
        full_weight(head.weight, hidden_TD.dtype),
        None if bias is None else full_weight(bias, hidden_TD.dtype),
        scale=(1.0 if factor is None else factor) / (1.0 if divisor is None else divisor),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def full_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The whole of a weight that is sharded over ranks; any other weight as it is.

    A sharded weight is cast to `dtype` first, so that fewer bytes travel. Each rank has different
    tokens: the backward pass sums gradients over the ranks.
    """
    return whole_weight(weight, dtype) if isinstance(weight, DTensor) else weight


def without_grad(head: HeadInputs) -> HeadInputs:
    """The same head as constants, its weight in the dtype in which logits are computed."""
    dtype = head.hidden_TD.dtype
    return replace(
        head,
        hidden_TD=head.hidden_TD.detach(),
        weight_VD=head.weight_VD.detach().to(dtype),
        bias_V=None if head.bias_V is None else head.bias_V.detach().to(dtype),
    )


def wide_dtype(head: HeadInputs) -> torch.dtype:
    """The dtype in which logits are held: at least float32."""
    return torch.promote_types(head.hidden_TD.dtype, torch.float32)


def multiplies_wide(factor: Tensor) -> bool:
    """Whether products of such tensors may come in float32, in which a GPU adds them up anyway."""
    is_narrow = factor.dtype in (torch.bfloat16, torch.float16)
    return is_narrow and factor.device.type in _MULTIPLYING_WIDE


def slices(length: int, width: int) -> Iterator[slice]:
    for start in range(0, length, width):
        yield slice(start, min(start + width, length))


def write_logits(
    heads: MixedHeads, rows: slice, temperature: float, width: int, into_TV: Tensor
) -> None:
    """Logits over temperature of some rows and the whole vocabulary.

    Args:
        width: columns of scratch that may exist at a time, where scratch is needed.
        into_TV: float32 or float64.
    """
    vocabulary = into_TV.shape[1]
    hidden_TD = heads[0][1].hidden_TD
    if len(heads) == 1 and (hidden_TD.dtype == into_TV.dtype or multiplies_wide(hidden_TD)):
        mixed_logits(heads, rows, slice(0, vocabulary), temperature, out=into_TV)
        return
    for ids in slices(vocabulary, width):
        into_TV[:, ids] = mixed_logits(heads, rows, ids, temperature)


def mixed_logits(
    heads: MixedHeads, rows: slice, ids: slice, temperature: float, out: Tensor | None = None
) -> Tensor:
    """Logits over temperature of some rows and ids, [T, S], float32 or float64.

    Args:
        out: receives the logits, if given. Its dtype is that of the first head's hidden states, or
            float32 where these multiply wide.
    """
    (weight, head), *others = heads
    logits_TS = _logits(head, rows, ids, out)
    if weight != temperature:
        logits_TS.mul_(weight / temperature)
    for weight, head in others:
        logits_TS.add_(_logits(head, rows, ids), alpha=weight / temperature)
    return logits_TS


def _logits(head: HeadInputs, rows: slice, ids: slice, out: Tensor | None = None) -> Tensor:
    hidden_TD, weight_DS = head.hidden_TD[rows], head.weight_VD[ids].T
    if multiplies_wide(hidden_TD):
        logits_TS = torch.mm(hidden_TD, weight_DS, out_dtype=torch.float32, out=out)
        if head.bias_V is not None:
            logits_TS.add_(head.bias_V[ids])
    elif head.bias_V is None:
        logits_TS = torch.mm(hidden_TD, weight_DS, out=out)
    else:
        logits_TS = torch.addmm(head.bias_V[ids], hidden_TD, weight_DS, out=out)
    logits_TS = logits_TS.to(wide_dtype(head))
    if head.scale != 1:
        logits_TS.mul_(head.scale)
    if head.softcap is not None:
        logits_TS.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits_TS
