"""The benchmark of the step runs and writes what it promises; its figures are not judged here."""

from pathlib import Path

import pytest
import torch

from common.config import ModelSection
from learner.checking.lengths import scaled_lengths
from learner.checking.published import PublishedTrainer
from learner.checking.shapes import make_batch, make_config, make_model, tenth_of_4b
from learner.figures.step_figures import StepFigures
from learner.figures.stopwatch import Stopwatch
from learner.model.student import prepare_to_train
from learner.ranks import Ranks
from tests.bench.written import figures_of

FAMILIES = ("qwen3_vl", "qwen3_5")


@pytest.mark.slow
def test_step_bench_writes_its_figures(tmp_path: Path) -> None:
    options = (
        "--scale 64 --groups 1 --layers 4 --repeats 1 --warmups 0 --vocabulary 512 --threads 1"
    )
    found = figures_of("step", tmp_path, options)
    assert found["speedup"].keys() == set(FAMILIES)
    for case in found["by_family"]:
        assert found["speedup"][case["family"]] == case["speedup"]["median"] > 0
        assert sum(case["time_s"].values()) <= case["ours_s"]["max"]
        assert case["tokens_per_s"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_compute_the_same_gradient(family: str) -> None:
    """Or the comparison would be of two different things."""
    lengths = scaled_lengths(64)
    config = make_config(lengths, groups=2, dtype="float32")
    config = config.model_copy(
        update={"objective": config.objective.model_copy(update={"importance_clip": None})}
    )
    cpu = torch.device("cpu")
    section = ModelSection(gradient_checkpointing=False)
    model = prepare_to_train(make_model(family, tenth_of_4b(4, 512)), section, cpu)
    trainer = PublishedTrainer(config, model, total_steps=10)
    groups = make_batch(1, 2, lengths, model, 512).groups

    sequences = [(group, number) for group in groups for number in range(len(group.responses))]
    trainer._micro_batch(sequences, len(sequences)).backward()
    published = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tokens = sum(group.num_response_tokens for group in groups)
    figures = StepFigures(None, cpu, step=1)
    trainer._backward(groups, (len(sequences), tokens), figures, None, Stopwatch(cpu))
    assert isinstance(trainer.ranks, Ranks)
    scale = max(gradient.abs().max().item() for gradient in published.values())
    for name, expected in published.items():
        found = model.get_parameter(name).grad
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * scale, msg=name)
