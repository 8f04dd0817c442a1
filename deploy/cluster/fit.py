"""Which process sits on which machine with which GPUs, and whether all of them find a place.

It reserves what `deploy.supervision.placement` has Ray reserve: a pool that names its number of
machines takes one bundle on each, all of the same size; processes of other pools are placed one by
one. The search is complete: where it finds no place, there is none.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.cluster.gpu_shares import PARTS, Counts, filled, parts, shared_gpus
from deploy.cluster.misfit import misfit
from deploy.cluster.nodes import Node
from deploy.cluster.pools import Pool, PoolName


@dataclass(frozen=True)
class Assignment:
    """Where one process sits."""

    process: str
    pool: PoolName
    node: Node
    gpus: tuple[int, ...]  # indices on that machine
    share: float  # of the GPU, for a process that has only a part of one; otherwise 1


@dataclass(frozen=True)
class _Unit:
    """What one machine gives at once: to a process, or to a pool's processes on that machine."""

    cpus: int  # in parts
    whole_gpus: int
    gpu_share: int  # of one more GPU, in parts


@dataclass(frozen=True)
class _Kind:
    """All units of one pool."""

    pool: Pool
    unit: _Unit
    count: int
    is_spread: bool  # at most one a machine

    def may_use(self, node: Node) -> bool:
        return node.has_labels(self.pool.labels)


def fit(pools: Sequence[Pool], nodes: Sequence[Node]) -> list[Assignment]:
    """A place for every process, in the order of pools and ranks.

    Raises:
        ConfigError: names the pool that finds no place, what it needs, what there is, the fix.
    """
    assignments = assignments_of(pools, nodes)
    if assignments is None:
        raise misfit(pools, nodes, lambda pools: assignments_of(pools, nodes) is not None)
    return assignments


def assignments_of(pools: Sequence[Pool], nodes: Sequence[Node]) -> list[Assignment] | None:
    """The assignments that `fit` finds. None means that there is no way."""
    kinds = [_kind(pool) for pool in pools]
    counts = _counts_a_node(kinds, nodes)
    if counts is None:
        return None
    places: list[list[tuple[Node, list[int]]]] = [[] for _ in kinds]  # of the units of each kind
    for node, vector in zip(nodes, counts, strict=False):  # those left over stay empty
        for index, gpus in _gpus_of_units(kinds, vector):
            places[index].append((node, gpus))
    return [
        assignment
        for kind, units in zip(kinds, places, strict=True)
        for assignment in _assign_processes(kind, units)
    ]


def gpus_of_bundle(pool: Pool) -> float:
    """GPUs that one machine reserves at once: for a process, or for a pool's share of processes.

    Of shared GPUs it is more than the sum where shares do not fill a GPU: none lies on two.
    """
    unit = _kind(pool).unit
    return unit.whole_gpus + unit.gpu_share / PARTS


def _kind(pool: Pool) -> _Kind:
    processes = 1 if pool.nodes is None else math.ceil(pool.processes / pool.nodes)
    gpus = parts(pool.gpus) * processes
    if 0 < pool.gpus < 1 and gpus > PARTS:  # full GPUs, each with as many as go on one
        whole, rest = divmod(processes, _a_gpu(pool))
        unit = _Unit(parts(pool.cpus) * processes, whole, parts(pool.gpus) * rest)
    else:
        unit = _Unit(parts(pool.cpus) * processes, *divmod(gpus, PARTS))
    return _Kind(pool, unit, pool.nodes or pool.processes, pool.nodes is not None)


def _a_gpu(pool: Pool) -> int:
    """Processes that go on one GPU."""
    return PARTS // parts(pool.gpus)


def _counts_a_node(kinds: Sequence[_Kind], nodes: Sequence[Node]) -> list[Counts] | None:
    """How many units of each kind each machine takes. None means that not all find a place.

    There are few ways, because of one kind (`greedy`) a machine may as well take all that fits
    beside the others.
    """
    free = [index for index, kind in enumerate(kinds) if not kind.is_spread]
    greedy = max(free, key=lambda index: kinds[index].count, default=None)
    wanted = tuple(kind.count for kind in kinds)
    return filled(nodes, wanted, lambda node, left: _takings(kinds, node, left, greedy))


def _takings(
    kinds: Sequence[_Kind], node: Node, left: Counts, greedy: int | None
) -> Iterator[Counts]:
    """What the machine may take: much first, and all that fits of the greedy kind."""
    most = [
        (min(count, 1) if kind.is_spread else count) if kind.may_use(node) else 0
        for kind, count in zip(kinds, left, strict=True)
    ]
    others = [[0] if index == greedy else range(limit, -1, -1) for index, limit in enumerate(most)]
    for taken in itertools.product(*others):
        if not _fits(kinds, node, taken):
            continue
        if greedy is not None:
            while taken[greedy] < most[greedy]:
                more = (*taken[:greedy], taken[greedy] + 1, *taken[greedy + 1 :])
                if not _fits(kinds, node, more):
                    break
                taken = more
        yield taken


def _fits(kinds: Sequence[_Kind], node: Node, taken: Counts) -> bool:
    cpus = sum(kind.unit.cpus * count for kind, count in zip(kinds, taken, strict=True))
    whole = sum(kind.unit.whole_gpus * count for kind, count in zip(kinds, taken, strict=True))
    if cpus > parts(node.cpus) or whole > node.gpus:
        return False
    shares, wanted = _shares(kinds, taken)
    if sum(a * b for a, b in zip(shares, wanted, strict=True)) > (node.gpus - whole) * PARTS:
        return False
    return shared_gpus(shares, wanted, node.gpus - whole) is not None


def _shares(kinds: Sequence[_Kind], taken: Counts) -> tuple[Counts, Counts]:
    """Parts of a shared GPU that a unit of each kind takes, and how many units take some."""
    shares = tuple(kind.unit.gpu_share for kind in kinds)
    return shares, tuple(n if share else 0 for share, n in zip(shares, taken, strict=True))


def _gpus_of_units(kinds: Sequence[_Kind], taken: Counts) -> Iterator[tuple[int, list[int]]]:
    """(kind, its GPUs) of each unit on one machine: whole ones first, then a shared one."""
    shares, wanted = _shares(kinds, taken)
    shared: list[list[int]] = [[] for _ in kinds]
    first_shared = sum(
        kind.unit.whole_gpus * count for kind, count in zip(kinds, taken, strict=True)
    )
    for gpu, held in enumerate(shared_gpus(shares, wanted, sum(wanted)) or [], first_shared):
        for index, count in enumerate(held):
            shared[index] += [gpu] * count
    whole = itertools.count()
    for index, (kind, count) in enumerate(zip(kinds, taken, strict=True)):
        for _ in range(count):
            gpus = list(itertools.islice(whole, kind.unit.whole_gpus))
            yield index, gpus + ([shared[index].pop(0)] if kind.unit.gpu_share else [])


def _assign_processes(kind: _Kind, units: list[tuple[Node, list[int]]]) -> Iterator[Assignment]:
    pool = kind.pool
    processes_a_unit = math.ceil(pool.processes / kind.count)
    is_part = 0 < pool.gpus < 1
    for rank, name in enumerate(pool.process_names()):
        node, gpus = units[rank // processes_a_unit]
        place = rank % processes_a_unit
        if is_part:
            mine = gpus[place // _a_gpu(pool)] if len(gpus) > 1 else gpus[0]
            yield Assignment(name, pool.name, node, (mine,), pool.gpus)
        else:
            size = int(pool.gpus)
            yield Assignment(
                name, pool.name, node, tuple(gpus[place * size : (place + 1) * size]), 1
            )
