"""How many logits exist at a time."""

import math
from dataclasses import dataclass

import torch

# Elements of one model's logits, enough for matrix products at nearly full speed.
_LARGEST_CHUNK = {"cpu": 2**25, "cuda": 2**28}
_SMALLEST_CHUNK = 2**20  # below, splitting costs more time than the memory is worth
# On a CPU even few rows take a fraction of the whole computation's memory. On a GPU every chunk
# reads the head and reads and writes its gradient once more, 6 GB of traffic for 2,560 x 248,320.
_FEWEST_CHUNKS = {"cpu": 8, "cuda": 1}
_SCRATCH_PARTS = 8  # a chunk's logits over what is worked on beside them
_SMALLEST_SCRATCH = 2**19


@dataclass(frozen=True)
class Plan:
    rows: int  # rows of a chunk
    width: int  # columns of logits at a time, for all rows of a chunk
    group: int  # rows at a time, for all columns


def plan_chunks(
    num_rows: int, vocabulary: int, device: torch.device, chunk_elements: int | None
) -> Plan:
    """Chunks of `chunk_elements` logits; None means as suits the device and the number of rows."""
    if chunk_elements is not None:
        return _plan(_most_rows(num_rows, vocabulary, chunk_elements), vocabulary, 1)
    kind = device.type if device.type in _LARGEST_CHUNK else "cuda"
    wanted = max(num_rows * vocabulary // _FEWEST_CHUNKS[kind], _SMALLEST_CHUNK)
    most = _most_rows(num_rows, vocabulary, min(wanted, _LARGEST_CHUNK[kind]))
    alike = math.ceil(num_rows / math.ceil(num_rows / most)) if num_rows else 1
    return _plan(alike, vocabulary, _SMALLEST_SCRATCH)


def _most_rows(num_rows: int, vocabulary: int, chunk_elements: int) -> int:
    return max(1, min(num_rows, chunk_elements // vocabulary))


def _plan(rows: int, vocabulary: int, smallest_scratch: int) -> Plan:
    scratch = max(rows * vocabulary // _SCRATCH_PARTS, smallest_scratch)
    return Plan(rows, width=max(1, scratch // rows), group=max(1, scratch // vocabulary))
