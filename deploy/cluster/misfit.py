"""What is said when a pool finds no place: what it needs, what there is, and what would help.

Each fix that is named has been tried: with it alone all pools fit; or, where no single one does
that, this pool and those before it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from common.errors import ConfigError
from deploy.cluster.nodes import Node
from deploy.cluster.pools import Pool, PoolName

COUNT_KEYS: Mapping[PoolName, str] = {"rollout": "rollout.servers", "learner": "learner.ranks"}
_SHARES = (0.5, 0.25)
_HALVES = (0.4, 0.6)  # of a GPU that rollout and learner share
Fits = Callable[[Sequence[Pool]], bool]
Change = tuple[str, list[Pool]]  # in words; the pools with it


def misfit(pools: Sequence[Pool], nodes: Sequence[Node], fits: Fits) -> ConfigError:
    """The error for pools that do not fit.

    Args:
        fits: whether such pools would, on the same machines.
    """
    first = next(index for index in range(len(pools)) if not fits(pools[: index + 1]))
    pool = pools[first]
    suited = [node for node in nodes if node.has_labels(pool.labels)]
    beside = ", ".join(_size(other) for other in pools[:first])
    problem = (
        f"{pool.name}_pool finds no place{f' beside {beside}' if beside else ''}: "
        f"it needs {_wish(pool)}. There {_machines(suited, pool)}"
    )
    after = pools[first + 1 :]
    fixes = _helpful(pools[:first], pool, len(nodes), lambda changed: fits([*changed, *after]))
    fixes = fixes or _helpful(pools[:first], pool, len(nodes), fits)
    fixes.append("more machines" + (" with its labels" if pool.labels else ""))
    return ConfigError(f"{problem}. Fix: {', or '.join(fixes)}")


def _size(pool: Pool) -> str:
    gpus = f" with {_amount(pool.gpus)}{' each' if pool.processes > 1 else ''}" if pool.gpus else ""
    plural = "es" if pool.processes > 1 else ""
    return f"{pool.processes} {pool.name} process{plural}{gpus}"


def _wish(pool: Pool) -> str:
    """What it needs, in words."""
    gpus = f" and {_amount(pool.gpus)}" if pool.gpus else ""
    each = f"{pool.processes} x ({_cpus(pool.cpus)}{gpus})"
    if pool.nodes is None:
        return each
    return f"{each}, on {pool.nodes} {'machine' if pool.nodes == 1 else 'different machines'}"


def _machines(nodes: Sequence[Node], pool: Pool) -> str:
    """What machines there are, equal ones together."""
    labels = ", ".join(f"{key}={value}" for key, value in pool.labels.items())
    if not nodes:
        return f"is no machine with the labels {labels}" if labels else "is no machine"
    kinds = Counter((_cpus(node.cpus), node.gpus, node.gpu) for node in nodes)
    machines = [
        f"{count} x ({', '.join(filter(None, [cpus, _gpus(gpus, model)]))})"
        for (cpus, gpus, model), count in kinds.items()
    ]
    verb = "is" if len(nodes) == 1 else "are"
    return f"{verb}{f' with the labels {labels}' if labels else ''}: {', '.join(machines)}"


def _gpus(count: int, model: str) -> str:
    return f"{_amount(count)} {model}".rstrip() if count else "no GPU"


def _cpus(count: float) -> str:
    return f"{count:g} CPU{'' if count == 1 else 's'}"


def _amount(gpus: float) -> str:
    if gpus < 1:
        return f"{gpus:g} of a GPU"
    return f"{gpus:g} GPU{'s' if gpus > 1 else ''}"


def _helpful(before: Sequence[Pool], pool: Pool, machines: int, fits: Fits) -> list[str]:
    """The best of each family of changes that makes pools fit."""
    first_ones = (
        next((text for text, changed in family if fits(changed)), None)
        for family in _fixes(before, pool, machines)
    )
    return [text for text in first_ones if text is not None]


def _fixes(before: Sequence[Pool], pool: Pool, machines: int) -> Iterator[Iterable[Change]]:
    """Changes that may help, in families of which the first that helps is the best one."""
    for changes in _of_the_pool(pool, machines):
        yield ((text, [*before, changed]) for text, changed in changes)
    for index, other in enumerate(before):  # it may be these that take too much
        rest = [*before[index + 1 :], pool]
        yield ((text, [*before[:index], changed, *rest]) for text, changed in _fewer(other))
    if pool.name == "rollout" and pool.gpus == 1:
        yield _one_gpu_for_both(before, pool)


def _of_the_pool(pool: Pool, machines: int) -> Iterator[Iterable[tuple[str, Pool]]]:
    section = f"{pool.name}_pool"
    yield _fewer(pool)
    if pool.nodes is not None:
        yield (
            (f"{section}.nodes = {nodes}", replace(pool, nodes=nodes))
            for nodes in range(1, machines + 1)
            if pool.processes % nodes == 0
        )
        yield _smaller(pool)
    if pool.name == "rollout" and pool.gpus == 1:
        yield ((f"{section}.gpus = {share:g}", replace(pool, gpus=share)) for share in _SHARES)
    elif pool.gpus:
        yield [(f"{section}.gpus = 0 (on CPUs)", replace(pool, gpus=0.0))]
    if pool.cpus > 1:
        yield [(f"{section}.cpus = 1", replace(pool, cpus=1.0))]
    if pool.labels:
        yield [(f"other {section}.labels", replace(pool, labels={}))]


def _fewer(pool: Pool) -> Iterator[tuple[str, Pool]]:
    """The pool with fewer processes, most first."""
    key = COUNT_KEYS.get(pool.name)
    step = pool.nodes or 1
    largest = (pool.processes - 1) // step * step
    for processes in range(largest, 0, -step) if key else ():
        yield f"{key} = {processes}", replace(pool, processes=processes)


def _smaller(pool: Pool) -> Iterator[tuple[str, Pool]]:
    """The pool on fewer machines, with as many processes on each, most first."""
    key = COUNT_KEYS.get(pool.name)
    most, rest = divmod(pool.processes, pool.nodes or 1)
    for nodes in range((pool.nodes or 1) - 1, 0, -1) if key and not rest else ():
        text = f"{key} = {nodes * most} on {pool.name}_pool.nodes = {nodes}"
        yield text, replace(pool, processes=nodes * most, nodes=nodes)


def _one_gpu_for_both(before: Sequence[Pool], pool: Pool) -> Iterator[Change]:
    rollout, learner = _HALVES
    changed = [
        replace(other, gpus=learner) if other.name == "learner" and other.gpus == 1 else other
        for other in before
    ]
    if changed != list(before):
        text = (
            f"rollout_pool.gpus = {rollout} and learner_pool.gpus = {learner} with "
            'weights.transport = "files"'
        )
        shared = replace(pool, gpus=rollout)
        yield text, [*changed, shared]
        learners = sum(other.processes for other in before if other.name == "learner")
        text = f"{text} and rollout.servers = {learners}"
        yield text, [*changed, replace(shared, processes=learners)]
