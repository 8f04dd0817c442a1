"""What kept weights make of one group; `learner.rescore` is the program and has the answer's form.

Views, packing, forward passes and heads are those of a step.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from common.config import RunConfig
from common.dataset_lookup import find_sample
from common.errors import ConfigError, DataError
from common.model_folder import with_local_models
from common.rendering import Renderer
from common.types import Count, Identifier, PositiveCount, Record
from common.views.showing import derived_seed
from learner.checkpoint.nearest import KeptWeights, nearest_kept
from learner.loading import load_models
from learner.model.student import prompt_positions
from learner.objective.likeliest import Likeliest
from learner.ranks import Ranks
from learner.trainer import Inspection, Trainer
from learner.views.inputs import PreparedGroup, PromptView
from learner.views.prompts import Found
from learner.views.training import open_training_views

_MOST_TOP = 100
Json = dict[str, Any]
Likely = tuple[str, float | None, int]
TokenIds = Annotated[tuple[Count, ...], Field(min_length=1)]


class RescoreRequest(Record):
    """A group that was trained."""

    sample_id: Identifier
    group_id: Identifier
    step: PositiveCount  # that trained it
    responses: tuple[TokenIds, ...] = Field(min_length=1)
    top_k: int = Field(10, gt=0, le=_MOST_TOP)

    @classmethod
    def of(cls, text: str) -> Self:
        """The request in a JSON text. Raises DataError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "standard input"
            raise DataError(
                f"{where}: {first['msg']}. Fix: send a request as --help shows it"
            ) from None


def rescore(
    config: RunConfig,
    folder: Path,
    request: RescoreRequest,
    checkpoint: Path | None,
    device: torch.device,
) -> Json:
    """The answer to a request, as `learner.rescore` has it.

    Args:
        folder: of the run, wherever it was moved to.
        checkpoint: the one to take; None means the nearest to the weights before the step.

    Raises:
        CheckpointError: nothing is kept, or it cannot be read.
        ConfigError: no model where the configuration says.
        DataError: the sample is gone or cannot be shown, or the tokens are of another model.
    """
    config, kept = _weights(config, folder, request.step - 1, checkpoint)
    trainer, renderer = _trainer(config, kept, device)
    group = _group(config, trainer, renderer, request)
    look = trainer.look(group, request.top_k)
    return {
        "checkpoint_step": kept.version,
        "is_exact": kept.version == request.step - 1,
        "checkpoint": "start" if kept.path is None else kept.path.name,
        "device": device.type,
        "temperature": config.rollout.temperature,
        "banned_token_ids": list(renderer.vision_token_ids),
        "responses": _responses(look, group, renderer),
    }


# ---- the weights ---------------------------------------------------------------------------------
def _weights(
    config: RunConfig, folder: Path, version: int, checkpoint: Path | None
) -> tuple[RunConfig, KeptWeights]:
    """The weights to take, and the configuration with the folder of the model."""
    problem: ConfigError | None = None
    try:
        config = with_local_models(config)
    except ConfigError as error:
        problem = error
    if checkpoint is not None:
        kept = KeptWeights.of(checkpoint)
    else:
        kept = nearest_kept(folder / "checkpoints", version, has_start=problem is None)
    if problem is not None:
        if kept.path is None or config.model.lora_rank:
            raise problem
        # A checkpoint has all that a model needs, but what lies under adapters.
        config = with_local_models(config.changed(model={"path": str(kept.path)}))
    return config, kept


def _trainer(
    config: RunConfig, kept: KeptWeights, device: torch.device
) -> tuple[Trainer, Renderer]:
    """The learner of the run with these weights, on this device alone."""
    if device.type == "cpu":
        config = config.changed(model={"attention": "sdpa"})  # others may be for GPUs
    ranks = Ranks(0, 1, device, timeout_s=0.0)
    model, teacher = load_models(config, ranks, kept.version)
    renderer = Renderer(config.model.path, config.prompt)
    trainer = Trainer(config, model, teacher, 1, renderer.vision_token_ids)
    kept.load_into(trainer)
    return trainer, renderer


# ---- the group -----------------------------------------------------------------------------------
def _group(
    config: RunConfig, trainer: Trainer, renderer: Renderer, request: RescoreRequest
) -> PreparedGroup:
    """The group as a step prepares it."""
    assert config.data.train is not None
    sample = find_sample(config.data.train, request.sample_id)
    if sample is None:
        raise DataError(f"sample {request.sample_id} is not in {config.data.train} any more")
    seeds = [derived_seed(config.run.seed, request.group_id)]
    positions = functools.partial(prompt_positions, trainer.model)
    with open_training_views(config, renderer, positions) as views:
        student = _shown(views.students([sample], seeds))
        teacher = _shown(views.teachers([sample], seeds))
    responses = tuple(np.asarray(ids, dtype=np.int64) for ids in request.responses)
    vocabulary = trainer.model.get_output_embeddings().weight.shape[0]
    if (largest := max(int(ids.max()) for ids in responses)) >= vocabulary:
        raise DataError(f"token {largest} is outside the model's vocabulary of {vocabulary}")
    return PreparedGroup(
        group_id=request.group_id,
        student=student,
        teacher=teacher,
        responses=responses,
        rollout_logprobs=tuple(np.zeros(len(ids), dtype=np.float32) for ids in responses),
        staleness=(0,) * len(responses),
        contrast=teacher,  # for weights, which are not asked for
    )


def _shown(found: Sequence[Found]) -> PromptView:
    (view,) = found
    if isinstance(view, DataError):
        raise view
    return view


# ---- the answer ----------------------------------------------------------------------------------
def _responses(look: Inspection, group: PreparedGroup, renderer: Renderer) -> list[Json]:
    students, teachers = (_named(side, renderer) for side in (look.student, look.teacher))
    figures = {
        name: [_finite(value) for value in getattr(look.tokens, name).tolist()]
        for name in ("student_logprob", "teacher_logprob", "divergence", "entropy")
    }
    found, start = [], 0
    for ids in group.responses:
        rows = slice(start, start + len(ids))
        pairs = zip(students[rows], teachers[rows], strict=True)
        positions = [{"student": student, "teacher": teacher} for student, teacher in pairs]
        own = {name: values[rows] for name, values in figures.items()}
        found.append({**own, "positions": positions})
        start = rows.stop
    return found


def _named(side: Likeliest, renderer: Renderer) -> list[list[Likely]]:
    """Text, probability and id of the likeliest tokens, by position."""
    return [
        list(zip(renderer.token_texts(ids), _rounded(probabilities), ids, strict=True))
        for ids, probabilities in zip(side.ids_TK.tolist(), side.probabilities_TK, strict=True)
    ]


def _rounded(probabilities_K: Tensor) -> list[float | None]:
    return [_finite(float(f"{value:.4g}")) for value in probabilities_K.tolist()]


def _finite(value: float) -> float | None:
    """What JSON can hold; None of weights that give no number."""
    return value if math.isfinite(value) else None
