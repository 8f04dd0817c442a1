"""The attention of `ragged_attention` by torch's flash kernel for CPUs, which takes a batch.

One call takes a lot of sequences of about one length.
Axes as there; S sequences of a lot, M tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from learner.model.layout import Sequences
from learner.model.ragged_attention import Scope

_BLOCK = 32  # least number of queries that torch's kernel for CPUs takes together


@dataclass(frozen=True)
class _Lot:
    """Sequences that one call takes, filled up on the right."""

    index_SM: Tensor  # int64: place in T; 0 where there is no token
    is_empty_SM: Tensor | None  # bool: there is no token; None means that all are tokens

    def of(self, flat_THD: Tensor) -> Tensor:
        """[T, H, D] -> [S, H, M, D]; zeros where there is no token."""
        taken = flat_THD.index_select(0, self.index_SM.flatten())
        taken = taken.view(*self.index_SM.shape, *flat_THD.shape[1:])
        if self.is_empty_SM is not None:
            taken.masked_fill_(self.is_empty_SM[..., None, None], 0)
        return taken.transpose(1, 2)


@dataclass(frozen=True)
class _Lots:
    """Queries and keys of each call, and the way back."""

    pairs: tuple[tuple[_Lot, _Lot], ...]
    query_place_T: Tensor  # int64: in the cat of all lots' queries, flattened
    key_place_U: Tensor


class BatchedFlash:
    """Kernels for CPUs: in float32 or float64, or with sums in float32 for 16 bits."""

    def forward(
        self, scope: Scope, query_THD: Tensor, key_UKD: Tensor, value_UKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        lots = _lots(scope.queries, scope.keys, scope.is_causal)
        outputs, lses = [], []
        for queries, keys in lots.pairs:
            output_SHMD, lse_SHM = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                queries.of(query_THD),
                keys.of(key_UKD),
                keys.of(value_UKD),
                0.0,
                scope.is_causal,
                scale=scope.scale,
            )
            outputs.append(output_SHMD)
            lses.append(lse_SHM[..., None])
        lse_TH1 = _back(lses, lots.query_place_T)
        return _back(outputs, lots.query_place_T), lse_TH1[..., 0].T

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
        lots = _lots(scope.queries, scope.keys, scope.is_causal)
        lse_TH1 = lse_HT.T[..., None]
        found: tuple[list[Tensor], ...] = ([], [], [])
        for queries, keys in lots.pairs:
            # 0 where there is no token, the log-sum-exp included, keeps what is computed finite.
            gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                queries.of(gradient_THD),
                queries.of(query_THD),
                keys.of(key_UKD),
                keys.of(value_UKD),
                queries.of(output_THD),
                queries.of(lse_TH1)[..., 0],
                0.0,
                scope.is_causal,
                scale=scope.scale,
            )
            for parts, gradient_SHMD in zip(found, gradients, strict=True):
                parts.append(gradient_SHMD)
        places = (lots.query_place_T, lots.key_place_U, lots.key_place_U)
        to_query, to_key, to_value = map(_back, found, places)
        return to_query, to_key, to_value


def _back(lots_SHMD: Sequence[Tensor], place_T: Tensor) -> Tensor:
    """Rows of all lots in the order of the tokens, [T, H, D]."""
    flat = [lot_SHMD.transpose(1, 2).flatten(0, 1) for lot_SHMD in lots_SHMD]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)).index_select(0, place_T)


@lru_cache(maxsize=32)  # the rows in use: each layer asks again
def _lots(queries: Sequences, keys: Sequences, is_causal: bool) -> _Lots:
    """Lots of sequences with equally many blocks of keys; without causality, equally many keys."""
    query_starts, key_starts = queries.starts_on_host.numpy(), keys.starts_on_host.numpy()
    queried, keyed = np.diff(query_starts), np.diff(key_starts)
    sizes = -(-keyed // _BLOCK) if is_causal else keyed
    lots = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    of_queries = [_lot(query_starts[lot], queried[lot]) for lot in lots]
    of_keys = of_queries if is_causal else [_lot(key_starts[lot], keyed[lot]) for lot in lots]
    return _Lots(
        tuple(zip(of_queries, of_keys, strict=True)),
        _places(of_queries, query_starts[-1]),
        _places(of_keys, key_starts[-1]),
    )


def _lot(starts: np.ndarray, lengths: np.ndarray) -> _Lot:
    place_1M = np.arange(max(1, lengths.max()))[None]
    is_empty_SM = place_1M >= lengths[:, None]
    index_SM = np.where(is_empty_SM, 0, starts[:, None] + place_1M)
    return _Lot(
        torch.from_numpy(index_SM),
        torch.from_numpy(is_empty_SM) if is_empty_SM.any() else None,
    )


def _places(lots: Sequence[_Lot], num_tokens: int) -> Tensor:
    index = torch.cat([lot.index_SM.flatten() for lot in lots])
    is_token = torch.cat([_is_token(lot).flatten() for lot in lots])
    place_T = torch.empty(num_tokens, dtype=torch.int64)
    place_T[index[is_token]] = is_token.nonzero()[:, 0]
    return place_T


def _is_token(lot: _Lot) -> Tensor:
    if lot.is_empty_SM is None:
        return torch.ones_like(lot.index_SM, dtype=torch.bool)
    return ~lot.is_empty_SM
