"""A checkpoint back into a trainer, on as many ranks as there are now."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import CheckpointError
from common.model_files import weight_files
from learner.checkpoint.cut import Trained
from learner.checkpoint.folder import Checkpoint, readable, unusable
from learner.checkpoint.paths import ADAPTERS, OPTIMIZER, RANDOM, TEACHER
from learner.checkpoint.tensor_files import Form, TensorFiles, forms_of
from learner.checkpoint.tensors import fill, is_close
from learner.model.lora import adapter_state, base_names, load_adapters, merged_weight
from learner.model.teacher import Teacher
from learner.optim import Optimizer


def restore(checkpoint: Checkpoint, trainer: Trained) -> None:
    """Make a trainer the one that wrote the checkpoint, bit for bit; every rank calls it.

    The trainer may be new or have trained since. Ranks need not be as many as those that saved.

    Raises:
        CheckpointError: the parts do not fit together.
    """
    load_student(checkpoint.path, trainer.model, checkpoint.names_in_files)
    load_teacher(checkpoint.path, trainer.teacher)
    load_optimizer(checkpoint.path, trainer.optimizer)
    _load_random_states(checkpoint.path, trainer.ranks.rank)
    trainer.version = checkpoint.version


def load_student(folder: Path, model: nn.Module, names_in_files: Mapping[str, str]) -> None:
    """Put a checkpoint's student into `model`; each rank reads its own part.

    The frozen weights under adapters are not in a checkpoint, only their sum with the adapters is:
    they must be those of the run's `model.path` already.

    Args:
        names_in_files: parameter name -> name in the files, where they differ.

    Raises:
        CheckpointError: the files cannot be read, or are of another model.
    """
    adapters = adapter_state(model)
    if adapters:
        _load_adapters(folder / ADAPTERS, model)
    tensors = model.state_dict(keep_vars=True)
    forms = {name: _in_files(tensors[name]) for name in base_names(model)}
    with readable(folder):
        paths = weight_files(folder)
    with _opened(folder, *paths) as files:
        stored = {name: names_in_files.get(name, name) for name in forms}
        if files.forms != {stored[name]: form for name, form in forms.items()}:
            raise unusable(folder, f"its student is of another model: {_difference(files, forms)}")
        for name in forms:
            if f"{name.removesuffix('.weight')}.lora_a" not in adapters:
                fill(tensors[name], files, stored[name])
            elif not is_close(
                merged_weight(model, name), files, stored[name], _rounding(tensors[name])
            ):
                raise CheckpointError(
                    f"{folder}: its {name} is not that of this model and its adapters. Fix: set "
                    "model.path and model.lora_alpha as in the run that wrote it"
                )


def _in_files(tensor: Tensor) -> Form:
    """The dtype in files: float32 for floats, also for those that are not trained."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return Form(dtype, tuple(tensor.shape))


def _rounding(base: Tensor) -> float:
    """The relative rounding between a checkpoint and weights under adapters."""
    return 2**-8 if base.dtype == torch.bfloat16 else 1e-5


def _load_adapters(path: Path, model: nn.Module) -> None:
    with _opened(path, path) as adapters:
        try:
            load_adapters(model, adapters)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def load_teacher(folder: Path, teacher: Teacher) -> None:
    """Put a checkpoint's float32 master into a teacher that keeps weights of its own.

    Raises:
        CheckpointError: there is none, or it is of another model.
    """
    if not teacher.kept():
        return
    path = folder / TEACHER
    with _opened(path, path) as weights:
        try:
            shapes = {name: form.shape for name, form in weights.forms.items()}
            teacher.load_by(lambda target, name: fill(target, weights, name), shapes)
        except ValueError as error:
            raise unusable(path, f"it is of another model: {error}") from error


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Take over moments and counts; each rank reads its own part.

    Raises:
        CheckpointError: the file cannot be read, or is of other trainable parameters.
    """
    path = folder / OPTIMIZER
    with _opened(path, path) as files:
        try:
            names = json.loads(files.metadata["parameters"])
            skipped_steps = int(files.metadata["skipped_steps"])
        except (KeyError, ValueError) as error:
            raise unusable(path, f"its header does not tell all: {error}") from error
        if sorted(names) != sorted(optimizer.parameter_names):
            raise unusable(path, "it is of other trainable parameters")
        updated = [name for name in optimizer.parameter_names if f"step.{name}" in files]
        targets = optimizer.make_tensors(updated)
        if forms_of(targets) != files.forms:
            raise unusable(path, "it is of parameters of other shapes")
        for name, target in targets.items():
            fill(target, files, name)
    optimizer.skipped_steps = skipped_steps


def _load_random_states(folder: Path, rank: int) -> None:
    """Load the random states; a rank that had no predecessor keeps its own."""
    path = folder / RANDOM
    with _opened(path, path) as states:
        if f"cpu.{rank}" in states:
            torch.set_rng_state(states[f"cpu.{rank}"])
        if f"cuda.{rank}" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states[f"cuda.{rank}"])


def _difference(files: TensorFiles, forms: Mapping[str, Form]) -> str:
    if len(files) != len(forms):
        return f"{len(files)} tensors, not {len(forms)}"
    return "names, shapes or dtypes differ"


@contextmanager
def _opened(named: Path, *paths: Path) -> Iterator[TensorFiles]:
    with readable(named):
        files = TensorFiles(paths)
    with files:
        yield files
