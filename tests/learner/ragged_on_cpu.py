"""CPU kernels behind torch's ragged flash attention: what runs on GPUs runs in the tests.

They demand of their arguments what those for CUDA demand (torch 2.13, flash_api.cpp), but
for the 16 bits.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@pytest.fixture
def ragged_on_cpu() -> Iterator[None]:
    """Taken away again with the test: what torch registers holds for the whole process."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", _forward, "CPU")
        library.impl("_flash_attention_backward", _backward, "CPU")
        yield


def _forward(
    query, key, value, starts_q, starts_k, max_q, max_k, dropout, is_causal, debug, *, scale=None
):
    _check(query, key, value, starts_q, starts_k, max_q, max_k)
    output = torch.full_like(query, torch.nan)
    lse = query.new_full((query.shape[1], len(query)), torch.nan, dtype=_of_sums(query))
    for q, k in _spans(starts_q, starts_k):
        out, lse_SHM = flash(
            _one(query[q]), _one(key[k]), _one(value[k]), 0.0, is_causal, scale=scale
        )
        output[q], lse[:, q] = out[0].transpose(0, 1), lse_SHM[0]
    nothing = torch.empty(0)
    return output, lse, torch.zeros(2, dtype=torch.uint64), nothing, nothing


def _backward(
    gradient,
    query,
    key,
    value,
    output,
    lse,
    starts_q,
    starts_k,
    max_q,
    max_k,
    dropout,
    is_causal,
    rng_state,
    unused,
    *,
    scale=None,
):
    _check(query, key, value, starts_q, starts_k, max_q, max_k)
    assert gradient.shape == output.shape == query.shape
    assert gradient.stride(-1) == output.stride(-1) == 1
    assert lse.shape == (query.shape[1], len(query)) and lse.is_contiguous()
    assert lse.dtype == _of_sums(query) and rng_state.dtype == torch.uint64
    found = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    for q, k in _spans(starts_q, starts_k):
        gradients = flash_backward(
            *map(_one, (gradient[q], query[q], key[k], value[k], output[q])),
            lse[None, :, q],
            0.0,
            is_causal,
            scale=scale,
        )
        for total, part, span in zip(found, gradients, (q, k, k), strict=True):
            total[span] = part[0].transpose(0, 1)
    return tuple(found)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    max_q: int,
    max_k: int,
) -> None:
    (num_queries, heads, width), (num_keys, groups, _) = query.shape, key.shape
    assert key.shape == value.shape == (num_keys, groups, width) and heads % groups == 0
    assert width % 8 == 0 and width <= 256
    assert query.dtype == key.dtype == value.dtype
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert len(starts_q) == len(starts_k) and starts_q[0] == starts_k[0] == 0
    for starts, total, longest in ((starts_q, num_queries, max_q), (starts_k, num_keys, max_k)):
        assert starts.dtype == torch.int32 and starts.is_contiguous()
        assert starts[-1] == total and starts.diff().max() <= longest
    if max_q == 1 and heads > groups:  # taken for decoding: [batch, groups, heads of one, width]
        assert len(starts_q) - 1 == num_queries


def _spans(starts_q: Tensor, starts_k: Tensor) -> Iterator[tuple[slice, slice]]:
    for (q, q_end), (k, k_end) in zip(
        pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True
    ):
        if q < q_end:
            yield slice(q, q_end), slice(k, k_end)


def _one(flat_THD: Tensor) -> Tensor:
    """[1, H, T, D]."""
    return flat_THD[None].transpose(1, 2)


def _of_sums(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
