"""How many logits exist at a time."""

from dataclasses import dataclass

import torch

# Elements of one model's logits, enough for matrix products at nearly full speed.
_LARGEST_CHUNK = {"cpu": 2**25, "cuda": 2**28}
_SMALLEST_CHUNK = 2**20  # below, splitting costs more time than the memory is worth
_CHUNKS = 8  # at least, so that even few rows take a fraction of the whole computation's memory
_SCRATCH_PARTS = 8  # a chunk's logits over what is worked on beside them
_SMALLEST_SCRATCH = 2**19


@dataclass(frozen=True)
class Plan:
    rows: int  # of a chunk
    width: int  # columns of logits at a time, for all rows of a chunk
    group: int  # rows at a time, for all columns


def plan_chunks(
    num_rows: int, vocabulary: int, device: torch.device, chunk_elements: int | None
) -> Plan:
    """Chunks of `chunk_elements` logits; None: what suits the device and the number of rows."""
    smallest_scratch = 1
    if chunk_elements is None:
        largest = _LARGEST_CHUNK.get(device.type, _LARGEST_CHUNK["cuda"])
        wanted = max(num_rows * vocabulary // _CHUNKS, _SMALLEST_CHUNK)
        chunk_elements, smallest_scratch = min(wanted, largest), _SMALLEST_SCRATCH
    rows = max(1, min(num_rows, chunk_elements // vocabulary))
    scratch = max(rows * vocabulary // _SCRATCH_PARTS, smallest_scratch)
    return Plan(rows, width=max(1, scratch // rows), group=max(1, scratch // vocabulary))
