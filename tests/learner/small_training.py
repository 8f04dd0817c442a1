"""Training without batches: drawn gradients, so that the state is a function of the version."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from common.config import RunConfig
from learner.loading import load_models
from learner.model.lora import base_names
from learner.model.sharding import gather
from learner.optim import Optimizer
from learner.ranks import Ranks
from tests.learner.teacher_weights import saved_weights

NOT_CLIPPED = 1e9  # so that ranks which add up norms in another order change nothing


def small_config(folder: Path, model: Path, /, **sections: dict[str, object]) -> RunConfig:
    tree: dict[str, dict[str, object]] = {
        "run": {"folder": folder, "seed": 3},
        "model": {"path": str(model), "dtype": "bfloat16", "gradient_checkpointing": False},
        "optimizer": {
            "lr": 1e-2, "warmup_steps": 0, "warmup_from_zero": False, "max_grad_norm": NOT_CLIPPED,
        },
    }  # fmt: skip
    for section, fields in sections.items():
        tree[section] = {**tree.get(section, {}), **fields}
    return RunConfig.model_validate(tree)


class SmallTraining:
    """Student, teacher and optimizer; sharded over `ranks` if there are any.

    Args:
        version: that it will be restored to.
    """

    def __init__(
        self, config: RunConfig, ranks: Ranks | None = None, path: Path | None = None, version=0
    ) -> None:
        self.path = path or Path(config.model.path)
        section = config.model.model_copy(update={"path": str(self.path)})
        alone = Ranks(0, 1, torch.device("cpu"), timeout_s=0.0)
        model, self.teacher = load_models(
            config.model_copy(update={"model": section}), ranks or alone, version
        )
        self.model: Any = model
        self.optimizer = Optimizer(model.named_parameters(), config.optimizer, 100)
        self.version = 0
        self.ranks = ranks or alone

    def step(self) -> None:
        """Every parameter but the first gets a gradient."""
        self.version += 1
        _, *others = self.model.named_parameters()
        for number, (_, parameter) in enumerate(others):
            if parameter.requires_grad:
                parameter.grad = _drawn(parameter, 1000 * self.version + number)
        self.optimizer.step(self.version)
        self.teacher.update(self.version)

    def state(self) -> dict[str, str]:
        """A hash of every whole tensor, dtype and shape included; all ranks call it."""
        live = self.model.state_dict(keep_vars=True)
        parts = {
            "student": {name: live[name] for name in base_names(self.model)},
            "trained": dict(self.model.named_parameters()),
            "teacher": saved_weights(self.teacher),
            "computing": dict(self.teacher.model.named_parameters()),
            "optimizer": self.optimizer.tensors(),
        }
        return {
            f"{part}/{name}": digest(gather(tensor))
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        } | {"version": str(self.version), "skipped": str(self.optimizer.skipped_steps)}


def digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr((tensor.dtype, tensor.shape)).encode() + content).hexdigest()


def _drawn(parameter: Tensor, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    gradient = torch.randn(parameter.shape, generator=random)
    if not isinstance(parameter, DTensor):
        return gradient
    mesh = parameter.device_mesh
    return distribute_tensor(gradient, mesh, parameter.placements, src_data_rank=None)
