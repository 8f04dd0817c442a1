"""Published models at their true shapes on the meta device, and what a learner holds of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.config import ObjectiveSection, RunConfig
from learner.checking.shapes import ModelSize, make_model, qwen3_5_4b
from learner.model.frozen import narrow_frozen
from learner.model.lora import add_adapters
from learner.model.sharding import whole_weight
from learner.model.student import prepare_to_train
from learner.model.teacher import Teacher
from learner.objective.head import HeadInputs
from learner.objective.loss import objective
from learner.objective.tokens import ResponseTokens, SamplingLaw
from learner.push.buckets import snapshot_of
from learner.push.pushed_weights import PushedWeights
from learner.trainer import DTYPES
from tests.living_bytes import LivingBytes

META = torch.device("meta")
_VL_4B = ModelSize(36, 2560, 9728, 32, 8, 128, 0, 0, 0, 151_936, 24, 1024, 4096, 16)
_9B = ModelSize(32, 4096, 12288, 16, 4, 256, 16, 32, 128, 248_320, 27, 1152, 4304, 16, False)
MODELS: dict[str, tuple[str, ModelSize]] = {
    "Qwen3.5-4B": ("qwen3_5", qwen3_5_4b()),
    "Qwen3.5-9B": ("qwen3_5", _9B),
    "Qwen3-VL-4B": ("qwen3_vl", _VL_4B),
}


def model_of(name: str, config: RunConfig, layers: int | None = None) -> Any:
    """The student as a learner has it before it is sharded, with fewer layers if asked for."""
    family, size = MODELS[name]
    size = replace(size, layers=layers or size.layers)
    model = prepare_to_train(make_model(family, size, META), config.model, META)
    if config.model.lora_rank:
        add_adapters(model, config.model.lora_rank, config.model.lora_alpha, seed=0)
    narrow_frozen(model, DTYPES[config.model.dtype])
    return model.to(META)  # adapters are begun on the CPU


@dataclass(frozen=True)
class Counted:
    """Bytes of all ranks together."""

    weights: int
    gradients: int
    moments: int
    teacher: int
    snapshot: int


def counted(name: str, config: RunConfig) -> Counted:
    model = model_of(name, config)
    teacher = Teacher(model, config.teacher, DTYPES[config.model.dtype])
    students = _storages(model.parameters())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    of_teacher = _storages([*teacher.model.parameters(), *teacher.kept().values()])
    snapshot = snapshot_of(config.weights, PushedWeights(model))
    return Counted(
        weights=sum(students.values()),
        gradients=trained,
        moments=2 * trained,
        teacher=sum(size for key, size in of_teacher.items() if key not in students),
        snapshot=sum(bucket.num_bytes for bucket in snapshot.buckets),
    )


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by memory: what two names share counts once."""
    found = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in found}


def decoder(
    model: Any, layout: Any, num_tokens: int, device: torch.device = META
) -> Callable[[], Tensor]:
    """Its forward pass over a row of such a layout."""
    width = model.config.get_text_config().hidden_size
    embedded = torch.empty(
        1, num_tokens, width, device=device, dtype=torch.bfloat16, requires_grad=True
    )
    positions = torch.zeros(3, 1, num_tokens, device=device, dtype=torch.int64)

    def forward() -> Tensor:
        output = model.base_model.language_model(
            inputs_embeds=embedded, position_ids=positions, use_cache=False, layout=layout
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    return forward


def head_pass(vocabulary: int, width: int, rows: int) -> int:
    """Bytes at most beside hidden states and master, of an objective and its backward pass."""
    master_VD = torch.empty(vocabulary, width, device=META, requires_grad=True)
    hidden_TD = torch.empty(rows, width, device=META, dtype=torch.bfloat16, requires_grad=True)
    teacher = HeadInputs(hidden_TD.detach(), master_VD.detach())
    ids_T = torch.empty(rows, device=META, dtype=torch.int64)
    values_T = torch.empty(rows, device=META)
    responses = ResponseTokens(ids_T, values_T, values_T)
    law = SamplingLaw(1.0, torch.empty(0, device=META, dtype=torch.int64))
    with LivingBytes() as living:
        weight_VD = whole_weight(master_VD, torch.bfloat16)
        student = HeadInputs(hidden_TD, weight_VD)
        teachers = ((1.0, replace(teacher, weight_VD=weight_VD.detach())),)
        objective(student, teachers, responses, ObjectiveSection(), law).loss.backward()
    return living.peak


class Collectives(TorchDispatchMode):
    """Counts what ranks do together."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "c10d":
            self.counts[func.__name__] = self.counts.get(func.__name__, 0) + 1
        return func(*args, **(kwargs or {}))
