"""Checkpoints: a Hugging Face folder of the student, and beside it all that training needs.

    RUN/checkpoints/step-000060/
        config.json, model.safetensors, tokenizer, processor, chat template   the student
        teacher/weights.safetensors  float32, by parameter name; absent for policy "current"
        optimizer.pt            AdamW moments and counts; read it with weights_only=True
        random.pt               states of torch's generators; the same
        run.toml                the configuration
        state.json              version, run seed, digest of the student, digests of all other files

A folder is written under another name, the broker is told, and then it is renamed: a name that ends
in digits is complete, and the broker knows all steps that it holds. A learner that starts on a run
folder goes on from the newest one, bit for bit. `--model.path RUN/checkpoints/step-000060` starts
another run from the student.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import CheckpointError
from common.files import sha256_of_file
from common.rendering import Renderer
from learner.model import named_weights
from learner.scenes import write_json
from learner.trainer import Trainer

logger = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{6,})")
_STATE = "state.json"
_TEACHER = "teacher/weights.safetensors"  # apart: servers load every such file beside config.json


class Checkpoint(NamedTuple):
    """A complete checkpoint, with every file as it was written."""

    path: Path
    version: int
    student_sha256: str


# ---- save ----------------------------------------------------------------------------------------
def save_checkpoint(
    folder: Path,
    trainer: Trainer,
    renderer: Renderer,
    config: RunConfig,
    commit: Callable[[int, int], None],
) -> Path:
    """Write the checkpoint of the trainer's version; keep the last `checkpoint.keep`.

    Args:
        commit: is told the version, and the oldest step that a learner may have to go back to, when
            everything is written and before it is valid. If it raises, there is no new checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    # If this process dies before the rename, the next one starts from what is there now.
    oldest = min(map(_step_of, list_checkpoints(folder)), default=0)
    final = folder / f"step-{trainer.version:06d}"
    assert not final.exists(), f"{final} would be overwritten"
    part = folder / f".{final.name}.part"
    _write(part, trainer, renderer, config)
    commit(trainer.version, oldest)
    os.replace(part, final)
    _sync(folder)
    for old in list_checkpoints(folder)[: -config.checkpoint.keep]:
        _remove(old)
    logger.info("checkpoint %s written", final)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(filter(lambda path: _NAME.fullmatch(path.name), folder.iterdir()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _write(folder: Path, trainer: Trainer, renderer: Renderer, config: RunConfig) -> None:
    from safetensors.torch import save_file

    trainer.model.save_pretrained(folder)
    renderer.save(folder)
    if trainer.teacher.model is not trainer.model:
        weights = {k: v.contiguous() for k, v in named_weights(trainer.teacher.model).items()}
        (folder / _TEACHER).parent.mkdir()
        save_file(weights, folder / _TEACHER)
    torch.save(trainer.optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(_random_state(), folder / "random.pt")
    (folder / "run.toml").write_text(dump_toml(config), encoding="utf-8")
    entries = sorted(folder.rglob("*"))
    files = [path for path in entries if path.is_file()]
    state = {
        "version": trainer.version,
        "seed": config.run.seed,
        "student": _digest(named_weights(trainer.model)),
        "files": {str(path.relative_to(folder)): sha256_of_file(path) for path in files},
    }
    write_json(folder / _STATE, state)
    for path in (*entries, folder / _STATE, folder):
        _sync(path)


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _sync(path: Path) -> None:
    """A file's content, or a folder's names, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Renamed first: a folder that is removed half-way must not look complete."""
    hidden = path.with_name(f".{path.name}.old")
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


# ---- restore -------------------------------------------------------------------------------------
def find_checkpoint(folder: Path, config: RunConfig) -> Checkpoint | None:
    """The newest checkpoint, checked file by file; None: there is none.

    Raises:
        CheckpointError: a file of it is missing, damaged or of another run.
    """
    complete = list_checkpoints(folder)
    if not complete:
        return None
    path = complete[-1]
    state = _read_state(path / _STATE)
    if state["version"] != _step_of(path):
        raise _unusable(path / _STATE, f"it is of step {state['version']}")
    if state["seed"] != config.run.seed:
        raise CheckpointError(
            f"{path / _STATE}: the checkpoint is of run.seed = {state['seed']}, this run has "
            f"{config.run.seed}. Fix: set it back, or name a new run.folder"
        )
    for name, digest in state["files"].items():
        if not (path / name).is_file():
            raise _unusable(path / name, "it is missing")
        if sha256_of_file(path / name) != digest:
            raise _unusable(path / name, "it is damaged")
    return Checkpoint(path, state["version"], state["student"])


def restore(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Make a new trainer, whose student was loaded from the checkpoint, the one that wrote it.

    Raises:
        CheckpointError: the parts do not fit together.
    """
    if _digest(named_weights(trainer.model)) != checkpoint.student_sha256:
        raise _unusable(checkpoint.path, "its student does not load as it was saved")
    if trainer.teacher.model is not trainer.model:
        load_teacher(checkpoint.path, trainer.teacher.model)
    path = checkpoint.path / "optimizer.pt"
    try:
        trainer.optimizer.load_state_dict(_load(path))
    except (KeyError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    trainer.version = checkpoint.version
    _restore_random_state(_load(checkpoint.path / "random.pt"))


def load_teacher(folder: Path, model: nn.Module) -> None:
    """Put a checkpoint's teacher into `model`, bit for bit.

    Raises:
        CheckpointError: there is none, or it is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _TEACHER
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unusable(path, f"it cannot be read: {error}") from error
    ours = named_weights(model)
    if _forms(weights) != _forms(ours):
        raise _unusable(path, "it is of another model")
    with torch.no_grad():
        for name, tensor in weights.items():
            ours[name].copy_(tensor)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(path, f"it cannot be read: {error}") from error
    missing = {"version", "seed", "student", "files"} - set(state)
    if missing:
        raise _unusable(path, f"it does not tell {', '.join(sorted(missing))}")
    return state


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise _unusable(path, f"it cannot be read: {error}") from error


def _restore_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    states = state.get("cuda", [])
    if torch.cuda.is_available() and len(states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states)


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}. Fix: bring the checkpoint back as it was, or remove its folder to go "
        "on from the one before"
    )


# ---- digests -------------------------------------------------------------------------------------
def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, forms and bits."""
    digest = hashlib.sha256(repr(_forms(weights)).encode())
    for _, tensor in sorted(weights.items()):
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _forms(weights: Mapping[str, Tensor]) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sorted(weights.items())]
