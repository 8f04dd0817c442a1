"""The whole step on several ranks equals that of one: weights, teacher and figures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import RunConfig
from common.dataset import read_samples
from common.images import ImageStore
from common.rendering import Renderer
from learner.assembly import _filler
from learner.loading import load_models
from learner.model.sharding import gather
from learner.model.student import prompt_positions
from learner.ranks import Ranks
from learner.trainer import Trainer
from learner.views.preparation import Preparation
from learner.views.training import open_training_views
from tests.learner.rank_processes import run_on_ranks
from tests.learner.teacher_weights import saved_weights
from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from tests.tiny_world import make_group

STEPS, GROUPS = 3, 3  # fewer groups than 4 ranks: one has none
LENGTHS = [(3, 1, 2), (5, 2, 4), (2, 6, 1)]
Arrays = dict[str, np.ndarray]


def train(ranks: Ranks, text: str) -> tuple[Arrays, Arrays, list[dict[str, float]]]:
    """Student, teacher and metrics after some steps on this rank's share of the groups."""
    torch.manual_seed(0)
    config = RunConfig.model_validate_json(text)
    assert config.data.train is not None
    model, teacher = load_models(config, ranks, 0)
    renderer = Renderer(config.model.path)
    images = ImageStore(config.data.train.parent)
    samples, _ = read_samples(config.data.train)

    def positions(*prompt):
        return prompt_positions(model, *prompt)

    filler = _filler(renderer, positions, model)
    trainer = Trainer(config, model, teacher, 10, (), ranks, filler)
    metrics, worst = [], []  # the second: what names samples
    with open_training_views(config, renderer, positions) as views:
        vocabulary = model.get_output_embeddings().weight.shape[0]
        by_id = {sample.sample_id: sample for sample in samples}
        preparation = Preparation(config, renderer, views, vocabulary, by_id)
        for step in range(1, STEPS + 1):
            groups = [
                make_group(
                    samples[GROUPS * step + n],
                    renderer,
                    images,
                    f"0/{step}-{n}",
                    LENGTHS[n],
                    step - 1,
                    10 * step + n,
                )
                for n in range(GROUPS)
            ]
            own = groups[ranks.rank :: ranks.world_size]
            result = trainer.step(preparation.prepare(step, own))
            metrics.append(result.metrics)
            worst.append((result.worst_sample, sorted(r["group_id"] for r in result.groups)))
    student = {name: gather(p).float().numpy() for name, p in model.named_parameters()}
    master = {name: gather(t).float().numpy() for name, t in saved_weights(teacher).items()}
    return student, master, metrics, worst


def config_of(checkpoint: Path, dataset: Path, folder: Path, **sections) -> str:
    tree = {
        "run": {"folder": folder, "seed": 3},
        "model": {"path": str(checkpoint), "dtype": "float32", **sections.get("model", {})},
        "data": {"train": dataset},
        "rollout": {"trajectories_per_sample": 3},
        "objective": {"top_k": 8, **sections.get("objective", {})},
        "teacher": {"ema_rate": 0.3, **sections.get("teacher", {})},
        # a large epsilon: gradients that are only rounding must not become whole updates
        "optimizer": {"lr": 1e-2, "warmup_steps": 0, "warmup_from_zero": False, "eps": 1e-3},
        "learner": {
            "groups_per_step": GROUPS,
            "device": "cpu",
            "micro_batch_tokens": 60,
            "teacher_batch_tokens": 60,
        },
    }
    return RunConfig.model_validate(tree).model_dump_json()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"objective": {"token_weights": "visual_advantage", "aggregation": "token_mean"}},
        {"teacher": {"policy": "trust_region", "student_share": 0.3}},
        {"model": {"lora_rank": 4}},
    ],
    ids=["defaults", "visual_advantage", "trust_region", "lora"],
)
def test_two_ranks_train_as_one(sections, dataset: Path, tiny_checkpoint: Path, tmp_path: Path):
    text = config_of(tiny_checkpoint, dataset, tmp_path, **sections)
    assert_same_training(
        train(Ranks(0, 1, torch.device("cpu"), 0.0), text), run_on_ranks(train, 2, text)
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie_head", [True, False])
def test_four_ranks_train_as_one(family: str, tie_head: bool, dataset: Path, tmp_path: Path):
    checkpoint = make_tiny_checkpoint(tmp_path / "model", family=family, tie_head=tie_head)
    text = config_of(checkpoint, dataset, tmp_path)
    alone = train(Ranks(0, 1, torch.device("cpu"), 0.0), text)
    for world_size in (1, 4):
        assert_same_training(alone, run_on_ranks(train, world_size, text, timeout_s=100.0))


def assert_same_training(alone, on_ranks) -> None:
    student, teacher, metrics, worst = alone
    assert [len(names) for _, names in worst] == [GROUPS] * STEPS
    for rank_student, rank_teacher, rank_metrics, rank_worst in on_ranks:
        assert rank_worst == worst
        for ours, theirs in ((rank_student, student), (rank_teacher, teacher)):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=2e-6, err_msg=name)
        for row, wanted in zip(rank_metrics, metrics, strict=True):
            figures = {k: v for k, v in row.items() if not k.startswith("time/")}
            assert figures == pytest.approx({k: wanted[k] for k in figures}, rel=1e-3, abs=1e-6)
