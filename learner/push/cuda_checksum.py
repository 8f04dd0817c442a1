"""The checksum that SGLang's /weights_checker gives for a tensor on a GPU, in plain PyTorch.

A 64-bit hash of the bytes as 32-bit words (sglang 0.5.23, kernels/ops/memory/gpu_tensor_hash.py):
every word is mixed with its index, the mixed words of a tile are added up, the tile sums are mixed
and added up. There it is a Triton kernel; here it is int64 arithmetic that wraps like uint32, so
that it runs on any device and can be tested on a CPU. Axes: T tiles, W words a tile.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_TILE_WORDS = 8192
_WORDS_AT_ONCE = 512 * _TILE_WORDS  # 16 MiB of them: bounds the memory of the int64 copies
_WORD_BYTES = 4
_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_SEEDS = (0x243F6A88, ((0x243F6A88 * 0x9E3779B1) ^ 0xDEADBEEF) & _MASK32)
_POSITION_FACTORS, _ROTATIONS = (0x27D4EB2D, 0x165667B1), (15, 13)


def cuda_checksums(contents: Mapping[str, Sequence[Tensor]]) -> dict[str, str]:
    """16 hex digits for each tensor. The host waits for the device once, at the end.

    Args:
        contents: uint8 [n] each; a tensor is their bytes one after the other, on their device.
    """
    return {
        name: f"{_splitmix64(total & _MASK64):016x}"
        for name, total in zip(contents, sums_of_tiles(contents).tolist(), strict=True)
    }


def sums_of_tiles(contents: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """The hashes of each tensor's tiles, added up: int64 [N], modulo 2^64, on the device.

    Nothing comes to the host, which so waits for nothing.
    """
    return torch.stack([_sum_of_all_tiles(parts) for parts in contents.values()])


def _sum_of_all_tiles(parts: Sequence[Tensor]) -> Tensor:
    content = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    num_words = -(-len(content) // _WORD_BYTES)
    total = content.new_zeros((), dtype=torch.int64)
    for start, part in enumerate(torch.split(content, _WORDS_AT_ONCE * _WORD_BYTES)):
        total = total + _sum_of_tiles(_tiles(part), start * _WORDS_AT_ONCE, num_words)
    return total


def _tiles(content: Tensor) -> Tensor:
    """int64 [T, W], values of uint32; the last tile is filled up with zeros."""
    padding = -len(content) % (_TILE_WORDS * _WORD_BYTES)
    if padding or content.storage_offset() % _WORD_BYTES:
        content = torch.nn.functional.pad(content, (0, padding))  # a copy, which begins at a word
    return (content.view(torch.int32).long() & _MASK32).view(-1, _TILE_WORDS)


def _sum_of_tiles(value_TW: Tensor, start: int, num_words: int) -> Tensor:
    """Sum of the tiles' hashes: int64 []. Their first word has index `start` in the tensor."""
    words = torch.arange(start, start + value_TW.numel(), device=value_TW.device)
    index_TW = words.view_as(value_TW)
    is_word_TW = index_TW < num_words
    num_bytes = (num_words * _WORD_BYTES) & _MASK32
    halves = []
    for factor, seed, rotation in zip(_POSITION_FACTORS, _SEEDS, _ROTATIONS, strict=True):
        low_TW = index_TW & _MASK32
        position_TW = ((low_TW * factor + seed) & _MASK32) ^ _rotate32(low_TW, rotation)
        mixed_TW = _mix32(value_TW ^ position_TW) * is_word_TW
        halves.append(_mix32((mixed_TW.sum(dim=1) & _MASK32) ^ num_bytes).sum())
    high, low = halves
    return (high << 32) + low


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
