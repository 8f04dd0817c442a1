"""Ranks that each read their own part hold together what one that reads everything holds."""

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from common.config import RunConfig
from common.errors import ConfigError
from learner.loading import load_models
from learner.ranks import Ranks
from tests.learner.rank_processes import run_on_ranks
from tests.learner.small_training import SmallTraining, digest, small_config
from tests.tiny_model import FAMILIES, make_tiny_checkpoint

NORM = "model.language_model.norm.weight"


def started(ranks: Ranks | None, config: RunConfig) -> dict[str, Any]:
    """Hashes of all tensors, and which are tied."""
    training = SmallTraining(config, ranks)
    models = {"student": training.model, "teacher": training.teacher.model}
    state: dict[str, Any] = dict(training.state())
    for name, model in models.items():
        state |= {f"{name}/{n}": digest(buffer) for n, buffer in model.named_buffers()}
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        state[f"{name} is tied"] = head.weight is embedding.weight
    return state


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_start_as_one_does(tmp_path: Path, family: str) -> None:
    tied = make_tiny_checkpoint(tmp_path / "tied", 0, True, family)
    untied = make_tiny_checkpoint(tmp_path / "untied", 1, False, family)
    cases: list[dict[str, dict[str, object]]] = [
        {"model": {"path": str(untied), "dtype": "float32"}},
        {"model": {"path": str(tied), "lora_rank": 2}},
        {"teacher": {"policy": "fixed", "path": str(untied)}},
        {"teacher": {"policy": "current"}, "learner": {"ranks": 3}},
    ]
    for sections in cases:
        config = small_config(tmp_path, tied, **sections)
        assert run_on_ranks(started, 3, config) == [started(None, config)] * 3, sections


def with_nan(folder: Path) -> None:
    """In the last rank's part of one tensor."""
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM][-1] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(ranks: Ranks, config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        load_models(config, ranks, 0)
    return str(caught.value)


@pytest.mark.parametrize("key", ["model.path", "teacher.path"])
def test_what_one_rank_finds_is_not_finite_all_refuse(tmp_path: Path, key: str) -> None:
    good, bad = (make_tiny_checkpoint(tmp_path / name) for name in ("good", "bad"))
    with_nan(bad)
    teacher = {"policy": "fixed", "path": str(bad if key == "teacher.path" else good)}
    config = small_config(tmp_path, good if key == "teacher.path" else bad, teacher=teacher)
    told = set(run_on_ranks(refused, 2, config))
    assert (
        len(told) == 1 and f"{key} = '{bad}' has tensors with NaN or infinity: {NORM}" in told.pop()
    )


def resumed(ranks: Ranks, config: RunConfig) -> bool:
    model, _ = load_models(config, ranks, 5)
    return any(parameter.is_meta for parameter in model.parameters())


def test_a_resumed_student_is_not_read_from_the_start(tmp_path: Path) -> None:
    """It comes from the checkpoint, so what the start's files hold makes no difference."""
    folder = make_tiny_checkpoint(tmp_path / "model")
    with_nan(folder)
    assert run_on_ranks(resumed, 2, small_config(tmp_path, folder)) == [False, False]
