"""What a checkpoint holds of a teacher, without the files."""

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.model.sharding import copy_into
from learner.model.teacher import Teacher


def saved_weights(teacher: Teacher) -> dict[str, Tensor]:
    """Every tensor of `kept`, floats in float32: no copy of one that is float32 already."""
    return {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in teacher.kept().items()
    }


def load_weights(teacher: Teacher, weights: Mapping[str, Tensor]) -> None:
    """Go on from what `saved_weights` gave, as whole tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    teacher.load_by(lambda target, name: copy_into(target, weights[name]), shapes)
