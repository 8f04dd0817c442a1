import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from common.config import RunConfig
from common.dataset import read_samples
from common.group import Group
from common.images import ImageStore
from common.rendering import Renderer
from common.types import Sample
from common.views.settings import ViewSettings
from learner.model.student import load_student, prompt_positions
from learner.model.teacher import Teacher
from learner.trainer import DTYPES, Trainer
from learner.views.preparation import Preparation
from learner.views.prompts import PromptViews
from tests.learner.runs import Run
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_world import make_dataset, make_group

transformers_logging.disable_progress_bar()
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def renderer(tiny_checkpoint: Path) -> Renderer:
    return Renderer(str(tiny_checkpoint))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@dataclass
class World:
    """A dataset, a checkpoint, and the learner's parts on them."""

    config: RunConfig
    samples: list[Sample]
    images: ImageStore
    renderer: Renderer

    def group(self, number: int, lengths=(3, 1, 2), version: int = 0, seed: int = 0) -> Group:
        sample = self.samples[number % len(self.samples)]
        group_id = f"0/{number}"
        return make_group(
            sample, self.renderer, self.images, group_id, lengths, version, seed + number
        )

    @property
    def samples_by_id(self) -> dict[str, Sample]:
        return {sample.sample_id: sample for sample in self.samples}

    def changed(self, **sections: dict[str, object]) -> RunConfig:
        tree = self.config.model_dump()
        for section, fields in sections.items():
            tree[section] |= fields
        return RunConfig.model_validate(tree)

    def trainer(self, config: RunConfig | None = None, total_steps: int = 10) -> Trainer:
        config = config or self.config
        model = load_student(config.model, torch.device("cpu"))
        teacher = Teacher(model, config.teacher, DTYPES[config.model.dtype])
        return Trainer(config, model, teacher, total_steps)

    def views(self, trainer: Trainer, config: RunConfig | None = None) -> PromptViews:
        settings = ViewSettings.of(config or self.config)
        positions = functools.partial(prompt_positions, trainer.model)
        return PromptViews(self.renderer, self.images, settings, positions)

    def preparation(self, trainer: Trainer, config: RunConfig | None = None) -> Preparation:
        vocabulary = trainer.model.get_output_embeddings().weight.shape[0]
        views = self.views(trainer, config)
        return Preparation(
            config or self.config, self.renderer, views, vocabulary, self.samples_by_id
        )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"), num_samples=12)


def make_world(dataset: Path, tiny_checkpoint: Path, renderer: Renderer, folder: Path) -> World:
    """The run folder is `folder`/run."""
    config = RunConfig.model_validate(
        {
            "run": {"folder": folder / "run", "seed": 3},
            "model": {
                "path": str(tiny_checkpoint),
                "dtype": "float32",
                "gradient_checkpointing": False,
            },
            "data": {"train": dataset, "heldout": dataset},
            "rollout": {"engine": "embedded", "trajectories_per_sample": 3},
            "optimizer": {"lr": 1e-2, "warmup_steps": 0, "warmup_from_zero": False},
            "learner": {"groups_per_step": 4, "device": "cpu"},
            "weights": {"dtype": "float32", "backend": "gloo", "timeout_s": 20.0},
            "evaluation": {"max_response_tokens": 4, "shown": 3, "interim_samples": 5},
        }
    )
    samples, problems = read_samples(dataset)
    assert not problems
    return World(config, samples, ImageStore(dataset.parent), renderer)


@pytest.fixture
def world(dataset: Path, tiny_checkpoint: Path, renderer: Renderer, tmp_path: Path) -> World:
    return make_world(dataset, tiny_checkpoint, renderer, tmp_path)


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts the broker of a run whose sections differ from the world's as given."""
    runs: list[Run] = []

    def make(**sections: dict[str, object]) -> Run:
        runs.append(Run(world, tmp_path, **sections))
        return runs[-1]

    yield make
    for run in runs:
        run.close()
