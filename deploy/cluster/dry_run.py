"""What a run would place where, as text: nothing is started, nothing is written."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.config import RunConfig
from deploy.cluster.by_hand import Step, preparations, process_steps
from deploy.cluster.fit import Assignment, fit
from deploy.cluster.nodes import Node
from deploy.cluster.pools import Pool, pools_of
from deploy.showing.columns import aligned

_ORDER = ("broker", "rollout", "learner")  # as they are started
HAND_NOTE = "By hand: each in a terminal of its own on its machine, in this order."
ELSEWHERE_NOTE = (
    "Every machine needs this project in the same folder; data and run folder are shared, or "
    "copied there."
)


def dry_run(
    config: RunConfig,
    arguments: Sequence[str],
    nodes: Sequence[Node],
    folder: Path,
    *,
    reserves_cpus: bool = True,
    visible: Sequence[str] | None = None,
    kernels: Sequence[tuple[str, str]] = (),
    show: Callable[[str], None] = print,
) -> None:
    """Show machines, places, and each process's environment and command.

    Args:
        arguments: a person's, for the configuration; their paths are absolute.
        folder: the run's.
        reserves_cpus: as `pools_of` has it.
        kernels: what each kind of process computes with, where that is known.
        visible: how CUDA_VISIBLE_DEVICES names this machine's GPUs. None means by indices.

    Raises:
        ConfigError: the machines cannot hold the run. They have been shown by then.
    """
    show(f"Dry run of {config.run.name}: nothing is started, nothing is written.\n")
    show("Machines")
    show(_table(_machine(node) for node in nodes))
    if kernels:
        show(f"\nKernels\n{_table(kernels)}")
    pools = pools_of(config, reserves_cpus)
    assignments = sorted(fit(pools, nodes), key=lambda assignment: _ORDER.index(assignment.pool))
    show("\nPlaces" + ("" if len(nodes) == 1 else " (one way; Ray may choose another)"))
    show(_table(_place(assignment, pools) for assignment in assignments))
    is_elsewhere = any(assignment.node.host != "127.0.0.1" for assignment in assignments)
    new_keys = folder / "keys" if config.broker.keys is None else None
    arguments = [*arguments, *_added(config, folder, new_keys)]
    show("\n" + "\n".join([HAND_NOTE, *([ELSEWHERE_NOTE] if is_elsewhere else [])]))
    for step in preparations(config, assignments, new_keys):
        show(_text(step))
    for step in process_steps(config, arguments, assignments, visible):
        show(_text(step))
    show(f"\n{_closing(assignments)}")


def _added(config: RunConfig, folder: Path, new_keys: Path | None) -> list[str]:
    """What the launcher would add to the configuration."""
    is_named = config.run.folder is not None and config.run.folder.absolute() == folder
    added = [] if is_named else ["--run.folder", str(folder)]
    return added if new_keys is None else [*added, "--broker.keys", str(new_keys)]


def _machine(node: Node) -> tuple[str, ...]:
    own = {key: value for key, value in node.labels.items() if not key.startswith("ray.io/")}
    labels = " ".join(f"{key}={value}" for key, value in own.items())
    return node.name, node.host, _count(node.cpus, "CPU"), _gpus(node), labels


def _gpus(node: Node) -> str:
    if not node.gpus:
        return "no GPU"
    memory = f"of {node.gpu_gib:.0f} GiB" if node.gpu_gib else ""
    return " ".join(filter(None, [_count(node.gpus, "GPU"), node.gpu, memory]))


def _place(assignment: Assignment, pools: Sequence[Pool]) -> tuple[str, ...]:
    (cpus,) = (pool.cpus for pool in pools if pool.name == assignment.pool)
    gpus = ",".join(map(str, assignment.gpus))
    share = f" ({assignment.share:g} of it)" if assignment.share < 1 else ""
    plural = "s" if len(assignment.gpus) > 1 else ""
    used = f"GPU{plural} {gpus}{share}" if gpus else ""
    reserved = _count(cpus, "CPU") if cpus else ""
    return assignment.process, assignment.node.name, ", ".join(filter(None, [reserved, used]))


def _closing(assignments: Sequence[Assignment]) -> str:
    machines = len({assignment.node.name for assignment in assignments})
    text = f"It fits: {_count(len(assignments), 'process')} on {_count(machines, 'machine')}."
    if any(assignment.gpus for assignment in assignments):
        text += " CPUs and GPUs were counted, memory was not."
    return text


def _count(number: float, word: str) -> str:
    plural = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:g} {word}{plural}"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of cells, aligned and indented."""
    return "\n".join(f"  {line}" for line in aligned(list(rows)))


def _text(step: Step) -> str:
    return "\n".join([f"\n# {step.remark}", *step.lines])
