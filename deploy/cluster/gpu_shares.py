"""Several processes on one GPU, each with a share of it: how many GPUs they need."""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

Counts = tuple[int, ...]  # by kind
Place = TypeVar("Place")
PARTS = 10_000  # of a CPU or a GPU: as fine as Ray counts


def parts(amount: float) -> int:
    return max(1, round(amount * PARTS)) if amount else 0


@lru_cache(maxsize=4096)
def shared_gpus(shares: Counts, wanted: Counts, gpus: int) -> list[Counts] | None:
    """How many shares of each kind each GPU holds. None means that not all find a place.

    Args:
        shares: of each kind, in parts, less than a GPU; 0 where the kind has none.
        wanted: how many of each kind.
        gpus: at most.
    """
    return filled(range(gpus), wanted, lambda _, left: _full_gpus(shares, left))


def filled(
    places: Iterable[Place], wanted: Counts, takings: Callable[[Place, Counts], Iterable[Counts]]
) -> list[Counts] | None:
    """What each place takes of the things that are wanted, until nothing is left.

    Place after place, all that can be left over for the next ones; so it finds a way if there is
    one. None means that there is none.

    Args:
        wanted: how many things of each kind.
        takings: all that a place may take of what is left, the best first.
    """
    nothing = (0,) * len(wanted)
    ways: list[dict[Counts, Counts]] = []  # per place: what is left > what it took
    reached = [wanted]
    for place in places:
        if nothing in reached:
            break
        taken_for: dict[Counts, Counts] = {}
        for left in reached:
            for taken in takings(place, left):
                taken_for.setdefault(tuple(map(operator.sub, left, taken)), taken)
        ways.append(taken_for)
        reached = list(taken_for)
    if nothing not in reached:
        return None
    left, found = nothing, []
    for taken_for in reversed(ways):
        found.append(taken_for[left])
        left = tuple(map(operator.add, left, found[-1]))
    return found[::-1]


def _full_gpus(shares: Counts, left: Counts) -> Iterator[Counts]:
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
