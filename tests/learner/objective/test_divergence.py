import math
import re
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import learner.objective
from common.config import ObjectiveSection
from common.config.objective import DivergenceName
from learner.objective.divergence import (
    DIVERGENCES,
    TAIL_CEILING,
    Divergence,
    bucket_logprobs,
    bucket_slopes,
)

pytestmark = pytest.mark.smoke

STUDENT = [2.0, 1.0, 0.5, -1.0, -2.0, 0.0]
TEACHER = [0.5, 2.5, 0.0, 1.0, -3.0, -0.5]
TOP_K = 3
# (teacher weight, with tail, renormalised); weight 0 is forward_kl, 1 is reverse_kl.
GOLDEN = [
    (0.0, 0.6732770863, 0.7992871038),
    (0.3, 0.1397246369, 0.1619401273),
    (0.5, 0.1696420256, 0.1940789243),
    (0.7, 0.1488604435, 0.1681307094),
    (1.0, 0.8159335969, 0.8984492368),
]
GOLDEN_GRADIENTS = [
    (0.5, True, [0.107547, -0.093654, 0.010613, -0.005997, -0.002206, -0.016303]),
    (0.0, True, [0.466714, -0.464144, 0.069417, -0.017617, -0.006481, -0.047889]),
    (1.0, True, [0.557893, -0.409792, 0.000138, -0.036278, -0.013346, -0.098615]),
    (0.5, False, [0.108427, -0.116513, 0.008086, 0.0, 0.0, 0.0]),
]


def kind_of(weight: float) -> tuple[Divergence, ObjectiveSection]:
    name = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(weight, "jsd")
    section = ObjectiveSection(jsd_teacher_weight=weight if 0 < weight < 1 else 0.5)
    return DIVERGENCES[name], section


def from_logits(
    student: torch.Tensor, teacher: torch.Tensor, top_k: int, weight: float, tail: bool
):
    top = student.topk(top_k, dim=-1).indices
    buckets = [bucket_logprobs(z.log_softmax(-1).gather(-1, top), tail) for z in (student, teacher)]
    divergence, section = kind_of(weight)
    return divergence.value(*buckets, section)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weight, with_tail, renormalised", GOLDEN)
def test_divergence_has_the_golden_values(weight, with_tail, renormalised, dtype, tolerance):
    student = torch.tensor([STUDENT], dtype=dtype)
    teacher = torch.tensor([TEACHER], dtype=dtype)
    for tail, expected in ((True, with_tail), (False, renormalised)):
        value = from_logits(student, teacher, TOP_K, weight, tail).item()
        assert value == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weight, tail, expected", GOLDEN_GRADIENTS)
def test_divergence_has_the_golden_gradients(weight, tail, expected, dtype):
    student = torch.tensor([STUDENT], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([TEACHER], dtype=dtype)
    from_logits(student, teacher, TOP_K, weight, tail).sum().backward()
    assert student.grad[0].tolist() == pytest.approx(expected, abs=2e-6)  # six printed digits


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_gradient_equals_the_closed_form(weight: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(5, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    from_logits(student, teacher, 4, weight, True).sum().backward()

    with torch.no_grad():
        top = student.topk(4).indices
        s = bucket_logprobs(student.log_softmax(-1).gather(-1, top), True)
        t = bucket_logprobs(teacher.log_softmax(-1).gather(-1, top), True)
        mixture = torch.log((1 - weight) * s.exp() + weight * t.exp())
        g = {0.0: -(t - s).exp(), 1.0: s - t}.get(weight, (1 - weight) * (s - mixture))
        bucket_of = torch.full((5, 9), 4).scatter(1, top, torch.arange(4).expand(5, 4))
        centre = (s.exp() * g).sum(-1, keepdim=True)
        expected = student.softmax(-1) * (g.gather(1, bucket_of) - centre)
    torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**31 - 1), st.floats(0.05, 0.95), st.booleans())
def test_divergence_is_bounded_and_zero_between_equals(seed: int, weight: float, tail: bool):
    generator = torch.Generator().manual_seed(seed)
    student = 5 * torch.randn(4, 12, generator=generator, dtype=torch.float64)
    teacher = 5 * torch.randn(4, 12, generator=generator, dtype=torch.float64)
    values = from_logits(student, teacher, 5, weight, tail)
    entropy = -(weight * math.log(weight) + (1 - weight) * math.log1p(-weight))
    assert (values > -1e-12).all() and (values <= entropy + 1e-12).all()
    assert from_logits(student, student, 5, weight, tail).abs().max() < 1e-12


def test_tail_has_a_floor_without_gradient_where_the_top_tokens_hold_all_mass():
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    buckets = bucket_logprobs(logits.log_softmax(-1)[:, :2], tail=True)
    assert buckets[0, -1].item() == pytest.approx(math.log(1e-7), abs=1e-6)
    (gradient,) = torch.autograd.grad(buckets[0, -1], logits)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("weight", [0.3, 0.5])
@pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
def test_divergence_slopes_are_its_derivative(divergence: Divergence, weight: float) -> None:
    section = ObjectiveSection(jsd_teacher_weight=weight)
    generator = torch.Generator().manual_seed(5)
    student = torch.randn(7, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    teacher = torch.randn(7, 9, generator=generator, dtype=torch.float64).log_softmax(-1)
    if divergence.is_sampled:
        student, teacher = student[:, :1], teacher[:, :1]
    student.requires_grad_()
    value_T = divergence.value(student, teacher, section)
    assert value_T.shape == (7,)
    # A sampled one's is the score function's: what it estimates, times log p of what was sampled.
    of_law = (value_T.detach()[:, None] * student) if divergence.is_sampled else value_T
    (expected,) = torch.autograd.grad(of_law.sum(), student)
    found = divergence.slopes(student, teacher, section)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_every_name_of_the_configuration_has_a_divergence_and_an_equation() -> None:
    names = get_args(DivergenceName)
    assert sorted(DIVERGENCES) == sorted(names)
    equation = learner.objective.__doc__.partition("(4)")[2].partition("(5)")[0]
    assert sorted(re.findall(r"^ +(?:\(4\) +)?(\w+):", equation, re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize("tail", [True, False])
def test_bucket_slopes_are_the_derivative_also_where_the_floor_binds(tail: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    logits[::2] *= 40
    top = logits.log_softmax(-1).topk(5, dim=-1).values.requires_grad_()
    is_floored = torch.logsumexp(top, dim=-1) > TAIL_CEILING
    assert 0 < is_floored.sum() < 8
    buckets = bucket_logprobs(top, tail)
    slopes = torch.randn(buckets.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(buckets, top, slopes)
    found = bucket_slopes(top.detach(), slopes, tail)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_slopes_stay_finite_where_the_student_has_no_mass_left() -> None:
    student = torch.tensor([[0.0, -800.0]])
    teacher = torch.tensor([[-800.0, 0.0]])
    for divergence in DIVERGENCES.values():
        assert divergence.slopes(student, teacher, ObjectiveSection()).isfinite().all()
