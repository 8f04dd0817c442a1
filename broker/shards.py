"""Split a batch over the learner's ranks."""

import heapq
from collections.abc import Sequence


def split_by_load(loads: Sequence[int], parts: int) -> tuple[tuple[int, ...], ...]:
    """Indices of `loads` in `parts` of nearly equal load, each in ascending order.

    The heaviest first, each to the part that is lightest so far (LPT): the heaviest part carries at
    most 4/3 of what the best split would give it (Graham 1969). No part is empty as long as there
    are as many positive loads as parts. The same loads always give the same split.
    """
    heap = [(0, part) for part in range(parts)]
    shards: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(loads)), key=lambda index: (-loads[index], index)):
        load, part = heapq.heappop(heap)
        shards[part].append(index)
        heapq.heappush(heap, (load + loads[index], part))
    return tuple(tuple(sorted(shard)) for shard in shards)
