"""Copies from the host to a device that the host does not wait for.

An ordinary copy to a GPU blocks the host until the GPU has done all that it was asked before. One
from page-locked memory takes its turn among the GPU's work.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; itself if it is there."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def on_device(record: Record, device: torch.device) -> Record:
    """A dataclass with its tensors, and those of the dataclasses in it, on `device`.

    Fields whose names end in `on_host` stay where they are.
    """
    assert is_dataclass(record) and not isinstance(record, type)
    names = [f.name for f in fields(record) if not f.name.endswith("on_host")]
    return replace(record, **{name: _moved(getattr(record, name), device) for name in names})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return sent(value, device)
    is_record = is_dataclass(value) and not isinstance(value, type)
    return on_device(value, device) if is_record else value
