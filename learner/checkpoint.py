"""Checkpoints: a Hugging Face folder of the student, and beside it all that training needs.

    RUN/checkpoints/step-000060/
        config.json, model.safetensors, tokenizer, processor, chat template   the student
        teacher.safetensors     float32, by parameter name; absent for policy "current"
        optimizer.pt            AdamW moments; read it with weights_only=True
        random.pt               state of torch's generators
        state.json              version, run seed
        run.toml                the configuration

A folder is written under another name and then renamed: a name that ends in digits is complete.
`--model.path RUN/checkpoints/step-000060` starts another run from the student.
"""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config import RunConfig
from common.config_cli import dump_toml
from common.rendering import Renderer
from learner.model import named_weights
from learner.scenes import write_json
from learner.trainer import Trainer

logger = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{6,})")


def save_checkpoint(
    folder: Path, trainer: Trainer, renderer: Renderer, config: RunConfig, keep: int
) -> Path:
    """Write the checkpoint of the trainer's version; of those in `folder` keep the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{trainer.version:06d}"
    part = folder / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    _write(part, trainer, renderer, config)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    _sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    logger.info("checkpoint %s written", final)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def load_teacher(folder: Path, model: nn.Module) -> None:
    """Put a checkpoint's teacher into `model`, bit for bit."""
    from safetensors.torch import load_file

    weights = load_file(folder / "teacher.safetensors")
    ours = named_weights(model)
    if weights.keys() != ours.keys():
        raise ValueError(f"{folder}/teacher.safetensors is of another model")
    with torch.no_grad():
        for name, tensor in weights.items():
            ours[name].copy_(tensor)


def _write(folder: Path, trainer: Trainer, renderer: Renderer, config: RunConfig) -> None:
    from safetensors.torch import save_file

    trainer.model.save_pretrained(folder)
    renderer.save(folder)
    if trainer.teacher.model is not trainer.model:
        weights = {k: v.contiguous() for k, v in named_weights(trainer.teacher.model).items()}
        save_file(weights, folder / "teacher.safetensors")
    torch.save(trainer.optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(_random_state(), folder / "random.pt")
    (folder / "run.toml").write_text(dump_toml(config), encoding="utf-8")
    write_json(folder / "state.json", {"version": trainer.version, "seed": config.run.seed})
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
