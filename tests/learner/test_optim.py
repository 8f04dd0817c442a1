import pytest
import torch

from common.config import OptimizerSection
from learner.optim import Optimizer, learning_rate

PUBLISHED = OptimizerSection()


def test_published_schedule_starts_at_zero_and_warms_up_in_ten_steps():
    rates = [learning_rate(step, PUBLISHED, 65) for step in range(1, 66)]
    assert rates[:4] == pytest.approx([0, 2e-7, 4e-7, 6e-7])
    assert rates[9:] == pytest.approx([1.8e-6] + [2e-6] * 55)


def test_warm_up_without_the_idle_step():
    config = OptimizerSection(lr=1.0, warmup_steps=4, warmup_from_zero=False)
    rates = [learning_rate(step, config, 10) for step in range(1, 7)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize("from_zero", [True, False])
def test_decay_is_linear_and_ends_at_its_share(from_zero: bool):
    config = OptimizerSection(
        lr=1.0, warmup_steps=2, warmup_from_zero=from_zero, final_lr_share=0.1
    )
    rates = [learning_rate(step, config, 12) for step in range(1, 13)]
    peak = rates.index(1.0)
    falls = [a - b for a, b in zip(rates[peak:-1], rates[peak + 1 :], strict=True)]
    assert peak == (2 if from_zero else 1)
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert rates[-1] == pytest.approx(0.1)


def test_a_run_shorter_than_its_warm_up_has_a_rate():
    config = OptimizerSection(lr=1.0, warmup_steps=2, final_lr_share=0.5)
    assert [learning_rate(s, config, 1) for s in (1, 2, 3)] == [0, 0.5, 0.5]


def test_optimizer_is_adamw_with_clipping_and_weight_decay_on_all_parameters():
    config = OptimizerSection(lr=0.1, warmup_steps=0, warmup_from_zero=False, max_grad_norm=1.0)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = Optimizer(ours, config, total_steps=5)
    reference = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01)
    for step in range(1, 4):
        gradients = [torch.randn_like(p) * 4 for p in ours]
        for p, q, gradient in zip(ours, theirs, gradients, strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        expected_norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        for q in theirs:
            q.grad /= expected_norm
        reference.step()
        norm, lr, was_made = optimizer.step(step)
        assert (norm, lr, was_made) == (pytest.approx(expected_norm), 0.1, True)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)
        assert p.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_costs_one_update(bad: float):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Optimizer([parameter], OptimizerSection(warmup_from_zero=False), 5)
    parameter.grad = torch.tensor([1.0, bad, 0.0])
    assert optimizer.step(1)[2] is False
    assert parameter.tolist() == [1, 1, 1] and parameter.grad is None
    assert optimizer.skipped_steps == 1
    parameter.grad = torch.ones(3)
    assert optimizer.step(2)[2] is True
    assert (parameter < 1).all()
