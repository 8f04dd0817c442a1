"""Split a batch over the learner's ranks."""

import heapq
from collections.abc import Sequence

Parts = list[list[int]]


def split_by_load(loads: Sequence[int], parts: int) -> tuple[tuple[int, ...], ...]:
    """Indices of `loads` in `parts` of nearly equal load, each in ascending order.

    The better of two heuristics, by the heaviest part: largest differencing (Karmarkar & Karp 1982)
    and longest processing time first, whose heaviest part is at most 4/3 of the best possible
    (Graham 1969). No part is empty as long as there are as many positive loads as parts. The same
    loads always give the same split.
    """
    if parts == 1:
        return (tuple(range(len(loads))),)
    order = sorted(range(len(loads)), key=lambda index: (-loads[index], index))
    splits = [_longest_first(loads, order, parts), _largest_differencing(loads, order, parts)]
    best = min(splits, key=lambda split: _heaviest(loads, split))
    return tuple(sorted(tuple(sorted(part)) for part in best))


def _longest_first(loads: Sequence[int], order: Sequence[int], parts: int) -> Parts:
    """The heaviest first, each to the part that is lightest so far."""
    heap = [(0, part) for part in range(parts)]
    split: Parts = [[] for _ in range(parts)]
    for index in order:
        load, part = heapq.heappop(heap)
        split[part].append(index)
        heapq.heappush(heap, (load + loads[index], part))
    return split


def _largest_differencing(loads: Sequence[int], order: Sequence[int], parts: int) -> Parts:
    """Join the two partial splits that differ most, heavy parts with light ones, until one is left.

    A partial split is `parts` pairs (load, indices), heaviest first.
    """
    heap = []
    for number, index in enumerate(order):
        split = [(loads[index], [index]), *[(0, list[int]()) for _ in range(parts - 1)]]
        heap.append((-loads[index], number, split))
    heapq.heapify(heap)
    number = len(heap)
    while len(heap) > 1:
        _, _, first = heapq.heappop(heap)
        _, _, second = heapq.heappop(heap)
        pairs = zip(first, reversed(second), strict=True)
        joined = [(a + b, [*ours, *theirs]) for (a, ours), (b, theirs) in pairs]
        joined.sort(key=lambda part: (-part[0], part[1]))
        heapq.heappush(heap, (joined[-1][0] - joined[0][0], number, joined))
        number += 1
    return [indices for _, indices in heap[0][2]] if heap else [[] for _ in range(parts)]


def _heaviest(loads: Sequence[int], split: Parts) -> tuple[int, int]:
    """Empty parts count first: a rank without a group is worse than any imbalance."""
    return sum(not part for part in split), max(sum(loads[i] for i in part) for part in split)
