"""The hash of SGLang's GPU kernel, against the same arithmetic word by word in plain Python.

The values below are those of SGLang 0.5.23's own kernel, run by Triton's interpreter.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learner.push import cuda_checksum
from learner.push.cuda_checksum import cuda_checksums, sums_of_tiles

BY_TRITON = {
    1: "d7f1f4357db32352",
    4: "d8097d9413bc9b31",
    7: "38f91d9b448cc432",
    1000: "f24e5e08f748bf13",
    4 * 8192: "636b2d513320d9ec",
    4 * 8192 + 4: "ad36608cfb9782f4",
    100_001: "689783f9c4be911a",
}  # bytes -> hash of torch.randint(0, 256, (bytes,)) after torch.manual_seed(bytes)
M32, M64 = 2**32 - 1, 2**64 - 1
TILE = 8192


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x85EBCA6B & M32
    x ^= x >> 13
    x = x * 0xC2B2AE35 & M32
    return x ^ x >> 16


def rotate(x: int, by: int) -> int:
    return (x << by | x >> 32 - by) & M32


def plain(content: bytes) -> str:
    content += bytes(-len(content) % 4)
    words = [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]
    seed = 0x243F6A88
    other = ((seed * 0x9E3779B1) ^ 0xDEADBEEF) & M32
    total = 0
    for start in range(0, len(words), TILE):
        sums = [0, 0]
        for i, word in enumerate(words[start : start + TILE], start=start):
            sums[0] += mix(word ^ ((i * 0x27D4EB2D + seed) & M32 ^ rotate(i, 15)))
            sums[1] += mix(word ^ ((i * 0x165667B1 + other) & M32 ^ rotate(i, 13)))
        high, low = (mix((s & M32) ^ (len(words) * 4 & M32)) for s in sums)
        total = (total + (high << 32) + low) & M64
    total ^= total >> 30
    total = total * 0xBF58476D1CE4E5B9 & M64
    total ^= total >> 27
    total = total * 0x94D049BB133111EB & M64
    return f"{total ^ total >> 31:016x}"


def checksum(*parts: torch.Tensor) -> str:
    return cuda_checksums({"w": parts})["w"]


@pytest.mark.parametrize(("size", "expected"), BY_TRITON.items())
def test_it_equals_the_kernel_and_the_plain_arithmetic(size, expected):
    torch.manual_seed(size)
    content = torch.randint(0, 256, (size,), dtype=torch.uint8)
    assert checksum(content) == plain(content.numpy().tobytes()) == expected


def test_parts_count_as_one_tensor():
    content = torch.arange(1003, dtype=torch.int64).to(torch.uint8)
    assert checksum(content[:10], content[10:11], content[11:]) == checksum(content)


def test_nothing_is_zero():
    assert checksum(torch.empty(0, dtype=torch.uint8)) == "0" * 16


@pytest.mark.parametrize("offset", [0, 1, 2, 4])
@pytest.mark.parametrize("size", [4 * TILE, 8 * TILE, 8 * TILE + 4, 12 * TILE - 3])
def test_it_is_the_same_wherever_the_bytes_lie_and_however_many_fit_at_once(
    monkeypatch, offset, size
):
    """Tensors of two bytes an element may begin between two words of their bucket."""
    monkeypatch.setattr(cuda_checksum, "_WORDS_AT_ONCE", TILE)
    torch.manual_seed(size)
    bucket = torch.randint(0, 256, (offset + size,), dtype=torch.uint8)
    assert checksum(bucket[offset:]) == plain(bucket[offset:].numpy().tobytes())


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_host_reads_nothing_before_all_tensors_are_hashed(monkeypatch):
    """Meta tensors have nothing to read: an item() of one raises."""
    monkeypatch.setattr(cuda_checksum, "_WORDS_AT_ONCE", TILE)
    sizes = (3, TILE, 9 * TILE + 2)
    contents = {str(n): [torch.empty(n, dtype=torch.uint8, device="meta")] * 2 for n in sizes}
    with Calls() as calls:
        sums_N = sums_of_tiles(contents)
    assert (sums_N.shape, sums_N.dtype, sums_N.device.type) == ((3,), torch.int64, "meta")
    assert "stack" in calls.names and "_local_scalar_dense" not in calls.names
    with Calls() as calls:
        cuda_checksums({"w": [torch.zeros(9 * TILE, dtype=torch.uint8)]})
    assert "_local_scalar_dense" not in calls.names
