"""The figures of a step that name a sample."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.group import Group
from common.pictures import encode_png
from common.rendering import Renderer
from learner.figures.step_figures import StepFigures, WorstSample, worst_sample
from learner.objective.tokens import TokenFigures
from learner.ranks import Ranks
from learner.views.inputs import PreparedBatch, PreparedGroup
from tests.groups import with_trajectories
from tests.rollout.support import load_model, reference_logprobs

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU, timeout_s=0.0)


def group(name: str, *lengths: int) -> PreparedGroup:
    responses = tuple(np.zeros(length, dtype=np.int64) for length in lengths)
    rollout = tuple(np.zeros(length, dtype=np.float32) for length in lengths)
    return PreparedGroup(name, None, None, responses, rollout, (0,) * len(lengths), sample_id=name)


def tokens(student: torch.Tensor) -> TokenFigures:
    zeros = torch.zeros_like(student)
    return TokenFigures(
        divergence=zeros,
        weight=zeros,
        student_logprob=student,
        entropy=zeros,
        teacher_logprob=zeros,
    )


def test_the_sample_that_differs_most_is_named() -> None:
    figures = StepFigures(None, CPU, step=1)
    first, second, third = group("a", 2, 1), group("b", 1), group("c", 4)
    rollout = torch.full((4,), -1.0)
    figures.add(torch.zeros(()), tokens(rollout + torch.tensor([0, 0.1, 0, 0.5])), rollout,
                [first, second])  # fmt: skip
    figures.add(torch.zeros(()), tokens(rollout + torch.tensor([0, 0, 0.6, 0])), rollout, [third])
    worst = worst_sample(figures.of_groups(ALONE))
    assert worst.sample_id == "b"
    assert worst.mismatch_kl == pytest.approx(np.exp(0.5) - 1.5, rel=1e-5)
    of_a, of_c = (np.exp(0.1) - 1.1) / 3, (np.exp(0.6) - 1.6) / 4
    assert worst.of_others == pytest.approx((of_a + of_c) / 2, rel=1e-4)
    assert worst.outlier_kl == 0
    rows = figures.of_groups(ALONE)
    assert [row["sample_id"] for row in rows] == ["a", "b", "c"]
    assert [row["learner/response_mean_tokens"] for row in rows] == [1.5, 1, 4]
    assert rows[0]["learner/mismatch_kl_nats"] == pytest.approx(of_a, rel=1e-4)
    metrics = figures.metrics(PreparedBatch(1, (first, second, third)), ALONE)
    assert metrics["drift/max_nats"] == pytest.approx(0.6, rel=1e-5)
    assert metrics["drift/mean_nats"] == pytest.approx(1.2 / 8, rel=1e-5)


def test_only_what_exceeds_the_others_by_far_stands_out() -> None:
    assert WorstSample(0.1, "a", 0.0019).outlier_kl == 0.1
    assert WorstSample(0.1, "a", 0.0021).outlier_kl == 0
    assert WorstSample(float("inf"), "a", 0.0).outlier_kl == float("inf")


def test_a_sample_without_a_number_is_the_worst() -> None:
    figures = StepFigures(None, CPU, step=1)
    rollout = torch.tensor([-1.0, -1.0])
    student = torch.tensor([-1.0, float("nan")])
    figures.add(torch.zeros(()), tokens(student), rollout, [group("a", 1), group("b", 1)])
    assert worst_sample(figures.of_groups(ALONE)) == WorstSample(float("inf"), "b", 0.0)


def test_a_step_without_tokens_names_nothing() -> None:
    assert worst_sample(StepFigures(None, CPU, step=1).of_groups(ALONE)) == WorstSample(
        0.0, "", 0.0
    )


def test_a_sample_of_which_the_engine_saw_another_picture_stands_out(world) -> None:
    """Rollout log-probs of one picture, and the learner is shown another: by a real forward."""
    trainer = world.trainer()
    reference = load_model(Path(world.config.model.path))
    groups = []
    for number in range(4):
        group = world.group(number)
        seen = world.samples[8] if number == 2 else world.samples_by_id[group.sample_id]
        picture = encode_png(world.images.open(seen.image).resize((64, 64)))
        own = encode_png(world.images.open(world.samples_by_id[group.sample_id].image))
        image = picture if number == 2 else own
        groups.append(with_logprobs(group, reference, world.renderer, image))
    result = trainer.step(world.preparation(trainer).prepare(1, groups))
    assert result.worst_sample == world.samples[2].sample_id
    worst = result.metrics["learner/mismatch_kl_worst_nats"]
    assert result.metrics["learner/mismatch_kl_outlier_nats"] == worst > 1e-6


def with_logprobs(group: Group, model, renderer: Renderer, image: bytes) -> Group:
    """The group as an engine that was shown `image` would report them."""
    return with_trajectories(
        group,
        [
            replace(
                trajectory,
                rollout_logprobs=reference_logprobs(
                    model, renderer, image, trajectory.response_token_ids.tolist()
                ),
            )
            for trajectory in group.trajectories
        ],
    )
