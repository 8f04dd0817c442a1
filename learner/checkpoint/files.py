"""The files of one checkpoint, from a cut. `learner.checkpoint` shows the folder."""

import copy
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import dump_toml
from common.files import replace_json, sha256_of_file, sync_tree
from common.rendering import Renderer
from learner.checkpoint.cut import Cut
from learner.checkpoint.tensor_files import forms_of, write_model, write_tensors

logger = logging.getLogger(__name__)
STATE = "state.json"
TEACHER = "teacher/weights.safetensors"  # apart: servers load every such file beside config.json
ADAPTERS = "training/adapters.safetensors"
OPTIMIZER = "training/optimizer.safetensors"
RANDOM = "training/random.safetensors"
_MAX_SHARD_BYTES = 5 * 2**30


def write_checkpoint(
    folder: Path, cut: Cut, model: Any, renderer: Renderer, config: RunConfig, oldest: int
) -> None:
    """Fill a new folder and sync it.

    Args:
        model: a Hugging Face model; its settings are read, its weights are not.
        oldest: the oldest step that the broker will let a learner go back to.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir()
    stored = names_in_files(model, cut.student)
    student = {stored.get(name, name): tensor for name, tensor in cut.student.items()}
    forms = forms_of(student)
    written = write_model(folder, forms, student.__getitem__, _MAX_SHARD_BYTES)
    _write_settings(folder, model, cut)
    renderer.save(folder)
    parts = {
        TEACHER: cut.teacher,
        ADAPTERS: cut.adapters,
        OPTIMIZER: cut.optimizer,
        RANDOM: cut.random,
    }
    for name, tensors in parts.items():
        if tensors or name == OPTIMIZER:  # which says something before the first update too
            facts = cut.optimizer_facts if name == OPTIMIZER else None
            forms, read = forms_of(tensors), tensors.__getitem__
            written[name] = write_tensors(folder / name, forms, read, facts)
    (folder / "run.toml").write_text(dump_toml(config), encoding="utf-8")
    digests = {name: file.sha256 for name, file in written.items()}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digests.setdefault(str(path.relative_to(folder)), sha256_of_file(path))
    state = {
        "version": cut.version,
        "seed": config.run.seed,
        "oldest": oldest,
        "names_in_files": stored,
        "files": digests,
    }
    replace_json(folder / STATE, state, is_synced=True)
    sync_tree(folder)


def names_in_files(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Parameter name -> name in a Hugging Face file, where they differ.

    Servers know the latter alone, and for some families (Qwen2.5-VL) transformers has its own.
    """
    import torch
    from transformers.core_model_loading import WeightConverter, revert_weight_conversion

    conversions = getattr(model, "_weight_conversions", None) or ()
    if any(isinstance(conversion, WeightConverter) for conversion in conversions):
        logger.warning(
            "%s stores some weights joined or split; checkpoints hold them as transformers has "
            "them in memory: transformers loads them, SGLang may not",
            type(model).__name__,
        )
        return {}
    stand_ins = {name: torch.empty(0, device="meta") for name in names}
    reverted = revert_weight_conversion(model, stand_ins)
    stored = {id(tensor): name for name, tensor in reverted.items()}
    pairs = {name: stored[id(tensor)] for name, tensor in stand_ins.items()}
    return {name: other for name, other in pairs.items() if name != other}


def _write_settings(folder: Path, model: Any, cut: Cut) -> None:
    settings = copy.deepcopy(model.config)
    dtype = next(t.dtype for t in cut.student.values() if t.is_floating_point())
    settings.dtype = str(dtype).removeprefix("torch.")
    settings.architectures = [type(model).__name__.removeprefix("FSDP")]
    settings.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
