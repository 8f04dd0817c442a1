"""The checksum that SGLang's /weights_checker gives for a tensor on a GPU, in plain PyTorch.

A 64-bit hash of the bytes as 32-bit words (sglang 0.5.23, kernels/ops/memory/gpu_tensor_hash.py):
every word is mixed with its index, the mixed words of a tile are added up, the tile sums are mixed
and added up. There it is a Triton kernel; here it is int64 arithmetic that wraps like uint32, so
that it runs on any device and can be tested on a CPU. Axes: T tiles, W words a tile.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_TILE_WORDS = 8192
_TILES_AT_ONCE = 256  # 2 MiB of words: bounds the memory of the int64 copies
_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_SEEDS = (0x243F6A88, ((0x243F6A88 * 0x9E3779B1) ^ 0xDEADBEEF) & _MASK32)
_POSITION_FACTORS, _ROTATIONS = (0x27D4EB2D, 0x165667B1), (15, 13)


def cuda_checksum(parts: Sequence[Tensor]) -> str:
    """16 hex digits.

    Args:
        parts: uint8 [n] each; the tensor is their bytes one after the other, on their device.
    """
    content = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    padding = -len(content) % 4
    words = torch.nn.functional.pad(content, (0, padding)).view(torch.int32)
    if not len(words):
        return f"{0:016x}"
    chunk = _TILE_WORDS * _TILES_AT_ONCE
    total = sum(
        _sum_of_tiles(words[start : start + chunk], start, len(words))
        for start in range(0, len(words), chunk)
    )
    return f"{_splitmix64(total & _MASK64):016x}"


def _sum_of_tiles(words: Tensor, start: int, num_words: int) -> int:
    """Sum of the hashes of the tiles in `words`, which begin at index `start` of the tensor."""
    padded = torch.nn.functional.pad(words, (0, -len(words) % _TILE_WORDS))
    value_TW = (padded.long() & _MASK32).view(-1, _TILE_WORDS)
    index_TW = torch.arange(start, start + len(padded), device=words.device).view_as(value_TW)
    is_word_TW = index_TW < num_words
    num_bytes = (num_words * 4) & _MASK32
    halves_T = []
    for factor, seed, rotation in zip(_POSITION_FACTORS, _SEEDS, _ROTATIONS, strict=True):
        low_TW = index_TW & _MASK32
        position_TW = ((low_TW * factor + seed) & _MASK32) ^ _rotate32(low_TW, rotation)
        mixed_TW = _mix32(value_TW ^ position_TW) * is_word_TW
        halves_T.append(_mix32((mixed_TW.sum(dim=1) & _MASK32) ^ num_bytes))
    high_T, low_T = halves_T
    return (int(high_T.sum()) << 32) + int(low_T.sum())


def _mix32(x: Tensor) -> Tensor:
    """MurmurHash3's finaliser on uint32 values held as int64."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK32
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK32
    return x ^ (x >> 16)


def _rotate32(x: Tensor, by: int) -> Tensor:
    return ((x << by) | (x >> (32 - by))) & _MASK32


def _splitmix64(x: int) -> int:
    x ^= x >> 30
    x = (x * 0xBF58476D1CE4E5B9) & _MASK64
    x ^= x >> 27
    x = (x * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)
