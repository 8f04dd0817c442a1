"""Student and teacher as a run starts, on their device, each rank with its part of them alone."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import RunConfig
from common.errors import ConfigError
from common.image_text_model import ImageTextModel
from common.model_files import weight_files
from common.model_loading import check_finite
from learner.checkpoint.names import names_in_files
from learner.checkpoint.tensor_files import TensorFiles
from learner.checkpoint.tensors import fill
from learner.model.frozen import narrow_frozen
from learner.model.lora import add_adapters, base_names
from learner.model.sharding import local_part, shard_model
from learner.model.student import load_student
from learner.model.teacher import Teacher
from learner.ranks import Ranks
from learner.trainer import DTYPES

_KEY = "model.path"
_META = torch.device("meta")


def load_models(config: RunConfig, ranks: Ranks, step: int) -> tuple[ImageTextModel, Teacher]:
    """Student and teacher; every rank calls it.

    Args:
        step: that training goes on from. After step 0 `learner.checkpoint.restore` must come next:
            until then a sharded student without adapters holds nothing.

    Raises:
        ConfigError: as `learner.model.student.load_student`; on all ranks, whichever found it.
    """
    dtype = DTYPES[config.model.dtype]
    if ranks.mesh is None:
        model = _student(config, ranks.device)
        return model, Teacher(model, config.teacher, dtype, step)
    model = _student(config, _META)
    teacher = Teacher(model, config.teacher, dtype, step, will_shard=True)
    is_awaited = step > 0 and not config.model.lora_rank
    path = None if is_awaited else config.model.path
    _shard_and_fill(model, path, config, ranks)
    if teacher.model is not model:
        path = config.teacher.path if config.teacher.traits.weights == "model" else None
        _shard_and_fill(teacher.model, path, config, ranks, "teacher.path")
    teacher.reshard()
    return model, teacher


def _student(config: RunConfig, device: torch.device) -> ImageTextModel:
    section = config.model
    model = load_student(section, device)
    if section.lora_rank:
        add_adapters(model, section.lora_rank, section.lora_alpha, config.run.seed)
    narrow_frozen(model, DTYPES[section.dtype])
    return model


def _shard_and_fill(
    model: ImageTextModel, path: str | None, config: RunConfig, ranks: Ranks, key: str = _KEY
) -> None:
    """Give each rank memory for its shards, and fill them from the files of a folder.

    Args:
        path: of the folder; None means that the weights come from elsewhere.
        key: of the configuration, for messages.
    """
    assert ranks.mesh is not None
    outlined = model.state_dict()
    announced = [name for name in base_names(model) if outlined[name].is_meta]
    del outlined  # sharding makes others
    shard_model(model, ranks.mesh, DTYPES[config.model.dtype], config.learner.offload)
    if path is not None and announced:
        where = f"{key} = {path!r}"
        check_finite(
            _filled_from(path, where, model, announced),
            where,
            lambda flags: [flag > 0 for flag in ranks.greatest([float(f) for f in flags])],
        )


def _filled_from(
    path: str, where: str, model: nn.Module, names: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Fill one tensor after the other; give each name and what this rank has of it.

    Raises:
        ConfigError: a file cannot be read.
    """
    tensors: dict[str, Tensor] = model.state_dict()
    stored = names_in_files(model, names)
    with TensorFiles(weight_files(Path(path))) as files:
        for name in names:
            try:
                fill(tensors[name], files, stored.get(name, name))
            except (KeyError, OSError) as error:
                raise ConfigError(
                    f"{where}: its {name} cannot be read: {error}. Fix: bring the folder "
                    "back as it was published"
                ) from error
            yield name, local_part(tensors[name])
