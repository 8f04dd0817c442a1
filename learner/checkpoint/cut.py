"""One consistent cut through a trainer: all that a checkpoint holds, as it is between two steps."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.image_text_model import ImageTextModel
from learner.checkpoint.copy_on_write import CopyOnWrite
from learner.checkpoint.tensor_files import Form, Part
from learner.model.lora import adapter_state, iterate_merged
from learner.model.sharding import part_of_rank
from learner.model.teacher import Teacher
from learner.optim import Optimizer
from learner.ranks import Ranks


class Trained(Protocol):
    """What a checkpoint is made of; `learner.trainer.Trainer` is one."""

    model: ImageTextModel
    teacher: Teacher
    optimizer: Optimizer
    version: int
    ranks: Ranks


@dataclass(frozen=True)
class Tensors:
    """Whole forms by the names that they have in the files, and this rank's rows of each."""

    forms: dict[str, Form]
    live: CopyOnWrite
    prefix: str

    def __getitem__(self, name: str) -> Tensor:
        return self.live.read(f"{self.prefix}/{name}")

    def called(self, names: Mapping[str, str]) -> tuple[dict[str, Form], dict[str, str]]:
        """Forms by other names, and from those back to these."""
        back = {names.get(name, name): name for name in self.forms}
        return {other: self.forms[name] for other, name in back.items()}, back


@dataclass(frozen=True)
class Cut:
    version: int
    part: Part  # that this rank has of every tensor
    is_writer: bool  # false if another rank has the same part, and writes it
    live: CopyOnWrite  # all tensors that are sharded, until `live.secure`
    student: Tensors  # by parameter name, adapters merged in
    adapters: Tensors  # by themselves; empty without adapters
    teacher: Tensors  # float32 master, by parameter name; empty without weights of its own
    optimizer: Tensors  # as `Optimizer.tensors` has them
    optimizer_facts: dict[str, str]  # what is no tensor
    random: dict[str, Tensor]  # uint8, states of torch's generators: cpu.RANK, cuda.RANK


def take_cut(trainer: Trained) -> Cut:
    """Take all tensors as they are; every rank calls it, between two steps.

    Nothing is copied but weights that adapters are merged into: those are made here, all ranks
    together. The others must not change before `cut.live.secure()`.
    """
    number, of, is_writer = part_of_rank(trainer.model)
    part = Part(number, of)
    live = CopyOnWrite(part)

    def tensors(
        prefix: str, named: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None
    ) -> Tensors:
        forms = {
            name: live.add(
                f"{prefix}/{name}", tensor, dtype if tensor.is_floating_point() else None
            )
            for name, tensor in named
        }
        return Tensors(forms, live, prefix)

    return Cut(
        version=trainer.version,
        part=part,
        is_writer=is_writer,
        live=live,
        student=tensors("student", iterate_merged(trainer.model), torch.float32),
        adapters=tensors("adapters", adapter_state(trainer.model).items()),
        teacher=tensors("teacher", trainer.teacher.kept().items(), torch.float32),
        optimizer=tensors("optimizer", trainer.optimizer.tensors().items()),
        optimizer_facts={
            "parameters": json.dumps(trainer.optimizer.parameter_names),
            "skipped_steps": str(trainer.optimizer.skipped_steps),
        },
        random=_random_states(trainer.ranks),
    )


def _random_states(ranks: Ranks) -> dict[str, Tensor]:
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {
        f"{kind}.{rank}": state
        for kind, mine in own.items()
        for rank, state in enumerate(ranks.gathered(mine))
    }
