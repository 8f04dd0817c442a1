"""One consistent cut through a trainer, copied to main memory: all that a checkpoint holds."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.checkpoint.tensors import HostMemory, is_main_rank
from learner.model.lora import adapter_state, iterate_merged
from learner.model.ranks import default_group
from learner.model.teacher import Teacher
from learner.optim import Optimizer


class Trained(Protocol):
    """What a checkpoint is made of; `learner.trainer.Trainer` is one."""

    model: nn.Module
    teacher: Teacher
    optimizer: Optimizer
    version: int


@dataclass(frozen=True)
class Cut:
    """Whole tensors on the CPU, by the names that they have in the files."""

    version: int
    student: dict[str, Tensor]  # by parameter name, adapters merged in
    adapters: dict[str, Tensor]  # by themselves; empty: there are none
    teacher: dict[str, Tensor]  # float32 master, by parameter name; empty: it has none of its own
    optimizer: dict[str, Tensor]  # as `Optimizer.tensors` has them
    optimizer_facts: dict[str, str]  # what is no tensor
    random: dict[str, Tensor]  # uint8, states of torch's generators: cpu.RANK, cuda.RANK


def take_cut(trainer: Trained, memory: HostMemory) -> Cut | None:
    """Copy everything; every rank calls it, between two steps.

    Tensors are gathered one by one, and only the main rank keeps them.

    Args:
        memory: where the copies lie. What an earlier cut had there is overwritten.

    Returns:
        None on all ranks but the main one.
    """

    def copies(part: str, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        found = ((name, memory.whole(f"{part}/{name}", tensor)) for name, tensor in tensors)
        return {name: tensor for name, tensor in found if tensor is not None}

    cut = Cut(
        version=trainer.version,
        student=copies("student", iterate_merged(trainer.model)),
        adapters=copies("adapters", adapter_state(trainer.model).items()),
        teacher=copies("teacher", trainer.teacher.named_master().items()),
        optimizer=copies("optimizer", trainer.optimizer.tensors().items()),
        optimizer_facts={
            "parameters": json.dumps(trainer.optimizer.parameter_names),
            "skipped_steps": str(trainer.optimizer.skipped_steps),
        },
        random=_random_states(),
    )
    return cut if is_main_rank() else None


def _random_states() -> dict[str, Tensor]:
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {
        f"{kind}.{rank}": state
        for kind, mine in own.items()
        for rank, state in enumerate(_of_all_ranks(mine))
    }


def _of_all_ranks(tensor: Tensor) -> list[Tensor]:
    if default_group() is None:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor)
    return found
