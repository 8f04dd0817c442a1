"""Several processes on one GPU, each with a share of it: how many GPUs they need."""

import itertools
from collections.abc import Iterator
from functools import lru_cache

PARTS = 10_000  # of a CPU or a GPU: as fine as Ray counts


def parts(amount: float) -> int:
    return max(1, round(amount * PARTS)) if amount else 0


@lru_cache(maxsize=4096)
def shared_gpus(
    shares: tuple[int, ...], wanted: tuple[int, ...], gpus: int
) -> list[tuple[int, ...]] | None:
    """How many shares of each kind each GPU holds; None when not all find a place.

    GPU after GPU, all that can be left over for the next ones; so it finds a way if there is one.

    Args:
        shares: of each kind, in parts, less than a GPU; 0: the kind has none.
        wanted: how many of each kind.
        gpus: at most.
    """
    ways: list[dict[tuple[int, ...], tuple[int, ...]]] = []
    reached = [wanted]
    while any(reached[0]):
        if len(ways) == gpus:
            return None
        held_for: dict[tuple[int, ...], tuple[int, ...]] = {}
        for left in reached:
            for held in _full_gpus(shares, left):
                held_for.setdefault(tuple(a - b for a, b in zip(left, held, strict=True)), held)
        ways.append(held_for)
        reached = sorted(held_for, key=sum)
    left, held_each = reached[0], []
    for held_for in reversed(ways):
        held_each.append(held_for[left])
        left = tuple(a + b for a, b in zip(left, held_each[-1], strict=True))
    return held_each[::-1]


def _full_gpus(shares: tuple[int, ...], left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All that one GPU may hold when nothing more goes on it."""
    if not shares:
        yield ()
        return
    *others, last = (
        (0 if not share else min(count, PARTS // share))
        for share, count in zip(shares, left, strict=True)
    )
    for held in itertools.product(*(range(limit, -1, -1) for limit in others)):
        room = PARTS - sum(a * b for a, b in zip(shares, held, strict=False))
        if room >= 0:
            yield (*held, min(last, room // shares[-1]) if shares[-1] else 0)
