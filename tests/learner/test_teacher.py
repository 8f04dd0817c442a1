import pytest
import torch
from torch import nn

from learner.teacher import Teacher


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def move(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-4)


def test_ema_follows_its_closed_form_on_every_parameter():
    model, rate, steps = student(), 0.05, 30
    generator = torch.Generator().manual_seed(1)
    teacher = Teacher(model, "ema", rate)
    history = [[p.detach().double().clone() for p in model.parameters()]]
    for _ in range(steps):
        move(model, generator)
        teacher.update()
        history.append([p.detach().double().clone() for p in model.parameters()])
    for number, parameter in enumerate(teacher.model.parameters()):
        expected = (1 - rate) ** steps * history[0][number]
        for step in range(1, steps + 1):
            expected += rate * (1 - rate) ** (steps - step) * history[step][number]
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=1e-7)


def test_buffers_of_the_teacher_stay():
    model = student()
    teacher = Teacher(model, "ema", 0.5)
    model[1].running_mean += 1
    teacher.update()
    assert teacher.model[1].running_mean.abs().max() == 0


@pytest.mark.parametrize("policy, rate", [("frozen", 0.05), ("ema", 0.0)])
def test_frozen_teacher_does_not_move(policy, rate):
    model = student()
    before = model[0].weight.detach().clone()
    teacher = Teacher(model, policy, rate)
    move(model, torch.Generator().manual_seed(1))
    teacher.update()
    assert torch.equal(teacher.model[0].weight, before)


def test_current_teacher_is_the_student():
    model = student()
    assert Teacher(model, "current", 0.05).model is model


def test_teacher_parameters_want_no_gradient():
    assert not any(p.requires_grad for p in Teacher(student(), "ema", 0.05).model.parameters())
