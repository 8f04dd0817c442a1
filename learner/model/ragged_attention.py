"""Attention over sequences of different lengths that lie one after the other, with its log-sum-exp.

No kernel here is known to autograd: `Attention.backward` takes the output and the log-sum-exp of
the whole softmax, of which the keys at hand may be but a part.
Axes: T tokens of the queries, H heads, M tokens of one sequence; U tokens of the keys, K heads of
theirs, N tokens of one sequence; G = H / K heads of a group; D of a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from learner.model.layout import Sequences

# For one query a sequence torch's kernel would take each group of heads as a sequence, and count on
# there being a query in every sequence; a tree without branches has none.
_NO_DECODING = 2


@dataclass(frozen=True)
class Scope:
    """Sequence i of the queries sees sequence i of the keys; no sequence of keys is empty."""

    queries: Sequences
    keys: Sequences
    is_causal: bool  # then queries and keys are the same sequences
    scale: float | None  # multiplies scores; None means 1 / sqrt(D)


class Attention(Protocol):
    """Kernels of one kind of device."""

    def forward(
        self, scope: Scope, query_THD: Tensor, key_UKD: Tensor, value_UKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output [T, H, D], and log-sum-exp of the scores, [H, T], at least float32."""
        ...

    def backward(
        self,
        scope: Scope,
        gradient_THD: Tensor,
        query_THD: Tensor,
        key_UKD: Tensor,
        value_UKD: Tensor,
        output_THD: Tensor,
        lse_HT: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value.

        The probabilities are exp(score - lse) and what the softmax takes off is
        sum(output * gradient): with those of the whole softmax these are its exact gradients
        for the keys of this scope (FlashAttention-2, arXiv 2307.08691, section 3.1).
        """
        ...


class RaggedFlash:
    """torch's own ragged flash attention: one call, on GPUs, in 16 bits, D a multiple of 8.

    Not `torch.nn.attention.varlen.varlen_attn`: its autograd drops the gradient of the log-sum-exp,
    and it may choose cuDNN by the shape. `activate_flash_attention_impl` replaces these operators.
    """

    def forward(
        self, scope: Scope, query_THD: Tensor, key_UKD: Tensor, value_UKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        output_THD, lse_HT, *_ = torch.ops.aten._flash_attention_forward(
            query_THD,
            key_UKD,
            value_UKD,
            scope.queries.starts_S,
            scope.keys.starts_S,
            max(scope.queries.longest, _NO_DECODING),
            scope.keys.longest,
            0.0,
            scope.is_causal,
            False,
            scale=scope.scale,
        )
        return output_THD, lse_HT

    def backward(
        self,
        scope: Scope,
        gradient_THD: Tensor,
        query_THD: Tensor,
        key_UKD: Tensor,
        value_UKD: Tensor,
        output_THD: Tensor,
        lse_HT: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_query, to_key, to_value = torch.ops.aten._flash_attention_backward(
            gradient_THD,
            query_THD,
            key_UKD,
            value_UKD,
            output_THD,
            lse_HT.contiguous(),
            scope.queries.starts_S,
            scope.keys.starts_S,
            max(scope.queries.longest, _NO_DECODING),
            scope.keys.longest,
            0.0,
            scope.is_causal,
            # The state of a dropout, which is not used.
            query_THD.new_empty(2, dtype=torch.uint64),
            query_THD.new_empty(0),
            scale=scope.scale,
        )
        return to_query, to_key, to_value


class Plain:
    """Attention by matrix products, a sequence at a time, in any dtype on any device.

    For float32 on GPUs, whose flash kernels compute in 16 bits.
    """

    def forward(
        self, scope: Scope, query_THD: Tensor, key_UKD: Tensor, value_UKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        query_TKGD = _grouped(query_THD, key_UKD)
        outputs, lses = [], []
        for queries, keys in _spans(scope):
            scores_KGMN = _scores(query_TKGD[queries], key_UKD[keys], scope)
            lse_KGM = scores_KGMN.logsumexp(dim=-1)
            weights_KGMN = (scores_KGMN - lse_KGM[..., None]).exp()
            output_MKGD = torch.einsum("kgmn,nkd->mkgd", weights_KGMN, value_UKD[keys])
            outputs.append(output_MKGD.flatten(1, 2))
            lses.append(lse_KGM.flatten(0, 1))
        return torch.cat(outputs), torch.cat(lses, dim=1)

    def backward(
        self,
        scope: Scope,
        gradient_THD: Tensor,
        query_THD: Tensor,
        key_UKD: Tensor,
        value_UKD: Tensor,
        output_THD: Tensor,
        lse_HT: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient_TKGD, query_TKGD, output_TKGD = (
            _grouped(tensor, key_UKD) for tensor in (gradient_THD, query_THD, output_THD)
        )
        lse_KGT = lse_HT.reshape(*query_TKGD.shape[1:3], -1)
        # What the softmax takes off.
        mean_KGT = (gradient_TKGD * output_TKGD).sum(dim=-1).permute(1, 2, 0)
        found: tuple[list[Tensor], ...] = ([], [], [])
        for queries, keys in _spans(scope):
            query_MKGD, gradient_MKGD = query_TKGD[queries], gradient_TKGD[queries]
            scores_KGMN = _scores(query_MKGD, key_UKD[keys], scope)
            weights_KGMN = (scores_KGMN - lse_KGT[..., queries, None]).exp()
            to_weights_KGMN = torch.einsum("mkgd,nkd->kgmn", gradient_MKGD, value_UKD[keys])
            to_scores_KGMN = weights_KGMN * (to_weights_KGMN - mean_KGT[..., queries, None])
            to_scores_KGMN *= _scale(query_MKGD, scope)
            to_query_MKGD = torch.einsum("kgmn,nkd->mkgd", to_scores_KGMN, key_UKD[keys])
            found[0].append(to_query_MKGD.flatten(1, 2))
            found[1].append(torch.einsum("kgmn,mkgd->nkd", to_scores_KGMN, query_MKGD))
            found[2].append(torch.einsum("kgmn,mkgd->nkd", weights_KGMN, gradient_MKGD))
        to_query, to_key, to_value = map(torch.cat, found)
        return to_query, to_key, to_value


def _grouped(tensor_THD: Tensor, key_UKD: Tensor) -> Tensor:
    """[T, K, G, D]: the heads by those of the keys that they see."""
    tokens, heads, width = tensor_THD.shape
    key_heads = key_UKD.shape[1]
    return tensor_THD.reshape(tokens, key_heads, heads // key_heads, width)


def _spans(scope: Scope) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each sequence."""
    starts = (scope.queries.starts_on_host.tolist(), scope.keys.starts_on_host.tolist())
    queries, keys = ((slice(*ends) for ends in pairwise(places)) for places in starts)
    return zip(queries, keys, strict=True)


def _scores(query_MKGD: Tensor, key_NKD: Tensor, scope: Scope) -> Tensor:
    scores_KGMN = torch.einsum("mkgd,nkd->kgmn", query_MKGD, key_NKD) * _scale(query_MKGD, scope)
    if not scope.is_causal:
        return scores_KGMN
    is_later_MN = torch.ones_like(scores_KGMN[0, 0], dtype=torch.bool).triu(1)
    return scores_KGMN.masked_fill(is_later_MN, -torch.inf)


def _scale(query_MKGD: Tensor, scope: Scope) -> float:
    width = query_MKGD.shape[-1]
    return float(width**-0.5) if scope.scale is None else scope.scale
