"""The machines of a cluster, as far as placing processes and predicting their speed need them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """One machine."""

    name: str
    cpus: float
    gpus: int = 0
    gpu: str = ""  # its model, such as H100; empty: not known
    gpu_gib: float = 0.0  # memory of one GPU; 0: not known
    host: str = "127.0.0.1"  # by which the others reach it
    labels: Mapping[str, str] = field(default_factory=dict)

    def has_labels(self, wanted: Mapping[str, str]) -> bool:
        """Whether Ray would take it for these: a value, `!value`, `in(a,b)` or `!in(a,b)` each."""
        return all(_agrees(self.labels.get(key), value) for key, value in wanted.items())


def _agrees(label: str | None, selector: str) -> bool:
    is_other = selector.startswith("!")
    values = selector.removeprefix("!")
    if values.startswith("in(") and values.endswith(")"):
        known = [value.strip() for value in values[3:-1].split(",")]
    else:
        known = [values]
    return (label in known) is not is_other
