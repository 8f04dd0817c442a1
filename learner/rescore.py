"""What kept weights make of one group: `python -m learner.rescore --config RUN/config.toml`.

A JSON request comes by standard input: {"sample_id", "group_id", "step", "responses", "top_k"}.
`step` is the one that trained the group, `responses` holds the token ids of all its trajectories.
The answer, one JSON object in the file --out:

    {"checkpoint_step": int,            version of the weights; a step begins from step - 1
     "is_exact": bool,                  whether that is step - 1
     "checkpoint": str,                 name of its folder; "start": the model the run started from
     "device": "cpu" | "cuda",
     "temperature": float,              all probabilities are at it, and of the whole vocabulary:
     "banned_token_ids": [int, ...],    also of these, which rollout may not sample
     "responses": [{
         "student_logprob": [float, ...],   of the sampled tokens, in nats; without the banned ids
         "teacher_logprob": [...], "divergence": [...], "entropy": [...],
         "positions": [{"student": [[text, probability], ...], "teacher": [...]}, ...]
     }, ...]}

Views, packing, forward passes and heads are those of a step. It is polite: the lowest priority, a
thread or two, and a GPU only if it is asked for one that is idle.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from common.command_line import parser_of, refusing
from common.config import RunConfig
from common.config_cli import load
from common.dataset_lookup import find_sample
from common.errors import ConfigError, DataError
from common.files import replace_text
from common.gpus import idle_gpu
from common.model_folder import with_local_models
from common.rendering import Renderer
from common.types import Count, Identifier, PositiveCount, Record
from common.views.showing import derived_seed
from learner.checkpoint.nearest import KeptWeights, nearest_kept
from learner.loading import load_models
from learner.model.student import choose_device, prompt_positions
from learner.objective.likeliest import Likeliest
from learner.ranks import Ranks
from learner.trainer import Inspection, Trainer
from learner.views.inputs import PreparedGroup, PromptView
from learner.views.prompts import Found
from learner.views.training import open_training_views

_MOST_TOP = 100
Json = dict[str, Any]
TokenIds = Annotated[tuple[Count, ...], Field(min_length=1)]


class RescoreRequest(Record):
    """A group that was trained."""

    sample_id: Identifier
    group_id: Identifier
    step: PositiveCount  # that trained it
    responses: tuple[TokenIds, ...] = Field(min_length=1)
    top_k: int = Field(10, gt=0, le=_MOST_TOP)


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    os.nice(19)
    torch.set_num_threads(options.threads)
    with refusing("rescore"):
        request = _request(sys.stdin.read())
        config = load(["--config", str(options.config)])
        folder = options.config.resolve().parent
        answer = rescore(config, folder, request, options.checkpoint, _device(options.device))
        replace_text(options.out, json.dumps(answer, allow_nan=False) + "\n")


def rescore(
    config: RunConfig,
    folder: Path,
    request: RescoreRequest,
    checkpoint: Path | None,
    device: torch.device,
) -> Json:
    """The answer to a request, as this module's text has it.

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
        name: getattr(look.tokens, name).tolist()
        for name in ("student_logprob", "teacher_logprob", "divergence", "entropy")
    }
    found, start = [], 0
    for ids in group.responses:
        rows = slice(start, start + len(ids))
        pairs = zip(students[rows], teachers[rows], strict=True)
        positions = [{"student": student, "teacher": teacher} for student, teacher in pairs]
        found.append({name: values[rows] for name, values in figures.items()})
        found[-1]["positions"] = positions
        start = rows.stop
    return found


def _named(side: Likeliest, renderer: Renderer) -> list[list[tuple[str, float]]]:
    """Text and probability of the likeliest tokens, by position."""
    return [
        list(zip(renderer.token_texts(ids), _rounded(probabilities), strict=True))
        for ids, probabilities in zip(side.ids_TK.tolist(), side.probabilities_TK, strict=True)
    ]


def _rounded(probabilities_K: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in probabilities_K.tolist()]


# ---- command line --------------------------------------------------------------------------------
def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("python -m learner.rescore", __doc__)
    parser.add_argument("--config", type=Path, required=True, help="RUN/config.toml")
    parser.add_argument("--out", type=Path, required=True, help="the file for the answer")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="RUN/checkpoints/step-N (default: the nearest to the weights before the step)",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="cuda: an idle GPU, if there is one; else CPUs (default: cpu)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser.parse_args(argv)


def _request(text: str) -> RescoreRequest:
    try:
        return RescoreRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "standard input"
        raise DataError(
            f"{where}: {first['msg']}. Fix: send a request as --help shows it"
        ) from None


def _device(wanted: str) -> torch.device:
    """The device to compute on; CPUs where no GPU is idle."""
    if wanted == "cuda" and (gpu := idle_gpu()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it when it starts, not before
        return choose_device("cuda")
    return torch.device("cpu")


if __name__ == "__main__":
    main()
