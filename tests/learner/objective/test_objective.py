"""The objective against a naive computation that holds everything, in values and gradients."""

import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.config import ObjectiveSection
from learner.objective import head as head_module
from learner.objective.divergence import TAIL_CEILING
from learner.objective.loss import (
    HeadInputs,
    MixedHeads,
    ResponseTokens,
    SamplingLaw,
    full_weight,
    head_of,
    importance_weights,
    objective,
    sampled_logprobs,
    token_shares,
)
from learner.objective.plan import plan_chunks
from learner.objective.top_k import top_k_ids

ROOT = Path(__file__).resolve().parents[3]
TOKENS, HIDDEN, VOCABULARY, TOP_K = 23, 8, 40, 6
LENGTHS = torch.tensor([5, 1, 9, 8])
TEMPERATURE = 0.7
BANNED = torch.tensor([3, 17])
LAW = SamplingLaw(TEMPERATURE, BANNED)
PLAIN_LAW = SamplingLaw(1.0, torch.tensor([], dtype=torch.int64))


def normals(seed: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: 0.7 * torch.randn(*shape, generator=generator, dtype=dtype)


def problem(seed: int = 0, dtype=torch.float64) -> tuple[HeadInputs, MixedHeads, ResponseTokens]:
    normal = normals(seed, dtype)
    student = HeadInputs(
        normal(TOKENS, HIDDEN).requires_grad_(), normal(VOCABULARY, HIDDEN).requires_grad_()
    )
    teacher = HeadInputs(normal(TOKENS, HIDDEN), normal(VOCABULARY, HIDDEN))
    generator = torch.Generator().manual_seed(seed)
    responses = ResponseTokens(
        torch.randint(18, VOCABULARY, (TOKENS,), generator=generator),  # none of them is banned
        -normal(TOKENS).abs() * 3,
        token_shares(LENGTHS, "sequence_mean", len(LENGTHS), TOKENS, dtype),
    )
    return student, ((1.0, teacher),), responses


# ---- against the whole computation ---------------------------------------------------------------
def naive_logits(heads: MixedHeads, temperature: float) -> Tensor:
    total = torch.zeros(())
    for weight, head in heads:
        dtype = head.hidden_TD.dtype
        logits = head.hidden_TD @ head.weight_VD.to(dtype).T
        logits = logits.to(torch.promote_types(dtype, torch.float32))
        if head.bias_V is not None:
            logits = logits + head.bias_V
        logits = logits * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        total = total + weight * logits
    return total / temperature


def naive_divergence(log_s: Tensor, log_t: Tensor, config: ObjectiveSection) -> Tensor:
    """[T], written from the formulas of the specification, autograd through it."""
    top_k = config.top_k or log_s.shape[1]
    top = log_s.detach().argsort(-1, descending=True)[:, :top_k]
    s, t = log_s.gather(1, top).exp(), log_t.gather(1, top).exp()
    if top_k < log_s.shape[1]:
        if config.tail:
            ceiling = math.exp(TAIL_CEILING)
            s = torch.cat([s, 1 - s.sum(-1, keepdim=True).clamp(max=ceiling)], -1)
            t = torch.cat([t, 1 - t.sum(-1, keepdim=True).clamp(max=ceiling)], -1)
        else:
            s, t = s / s.sum(-1, keepdim=True), t / t.sum(-1, keepdim=True)
    beta = config.jsd_teacher_weight
    m = (1 - beta) * s + beta * t
    return {
        "forward_kl": (t * (t / s).log()).sum(-1),
        "reverse_kl": (s * (s / t).log()).sum(-1),
        "jsd": ((1 - beta) * s * (s / m).log() + beta * t * (t / m).log()).sum(-1),
    }[config.divergence]


def naive(student, teacher, responses, config: ObjectiveSection, law: SamplingLaw = LAW) -> Tensor:
    log_s = naive_logits(((1.0, student),), law.temperature).log_softmax(-1)
    log_t = naive_logits(teacher, law.temperature).log_softmax(-1)
    sampled = responses.token_ids_T[:, None]
    if config.divergence == "sampled_reverse_kl":
        log_y, log_t_y = log_s.gather(1, sampled)[:, 0], log_t.gather(1, sampled)[:, 0]
        gap = (log_y - log_t_y).detach()
        per_token = gap * log_y
        per_token = per_token - per_token.detach() + gap  # the value is the estimate itself
    else:
        per_token = naive_divergence(log_s, log_t, config)
    allowed = log_s.detach().index_fill(1, law.banned_token_ids, -torch.inf).log_softmax(-1)
    ratio = (allowed.gather(1, sampled)[:, 0] - responses.rollout_logprobs_T).exp()
    weight = 1 if config.importance_clip is None else ratio.clamp(max=config.importance_clip)
    return (responses.shares_T * weight * per_token).sum()


def leaves_of(student: HeadInputs) -> list[Tensor]:
    inputs = (student.hidden_TD, student.weight_VD, student.bias_V)
    return [leaf for leaf in inputs if leaf is not None]


def assert_equals_naive(
    student, teacher, responses, config, law=LAW, chunk_elements=None, rtol=1e-7, atol=1e-10
) -> None:
    leaves = leaves_of(student)
    expected = naive(student, teacher, responses, config, law)
    expected_gradients = torch.autograd.grad(expected, leaves)
    result = objective(student, teacher, responses, config, law, chunk_elements)
    gradients = torch.autograd.grad(result.loss, leaves)
    torch.testing.assert_close(result.loss, expected, rtol=rtol, atol=atol)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000])
def test_objective_equals_the_naive_computation(kind, tail, rows_per_chunk):
    config = ObjectiveSection(divergence=kind, tail=tail, top_k=TOP_K, jsd_teacher_weight=0.3)
    assert_equals_naive(*problem(), config, chunk_elements=rows_per_chunk * VOCABULARY)


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("top_k", [None, VOCABULARY, VOCABULARY + 3])
@pytest.mark.parametrize("rows_per_chunk", [4, 1000])
def test_without_a_top_k_the_divergence_is_over_the_whole_vocabulary(kind, top_k, rows_per_chunk):
    config = ObjectiveSection(divergence=kind, top_k=top_k, jsd_teacher_weight=0.3)
    student, teacher, responses = problem(2)
    chunk_elements = rows_per_chunk * VOCABULARY
    whole = config.model_copy(update={"top_k": None})
    expected = torch.autograd.grad(
        naive(student, teacher, responses, whole), leaves_of(student), retain_graph=True
    )
    result = objective(student, teacher, responses, config, LAW, chunk_elements)
    for found, wanted in zip(
        torch.autograd.grad(result.loss, leaves_of(student)), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)
    log_s = naive_logits(((1.0, student),), TEMPERATURE).log_softmax(-1)
    log_t = naive_logits(teacher, TEMPERATURE).log_softmax(-1)
    torch.testing.assert_close(
        result.tokens.divergence, naive_divergence(log_s, log_t, whole).detach()
    )


@pytest.mark.parametrize("rows_per_chunk", [4, 1000])
def test_sampled_reverse_kl_equals_the_naive_computation(rows_per_chunk):
    config = ObjectiveSection(divergence="sampled_reverse_kl")
    student, teacher, responses = problem(3)
    assert_equals_naive(
        student, teacher, responses, config, chunk_elements=rows_per_chunk * VOCABULARY
    )
    tokens = objective(student, teacher, responses, config, PLAIN_LAW).tokens
    gap = tokens.student_logprob - tokens.teacher_logprob
    torch.testing.assert_close(tokens.divergence, gap)
    assert gap.min() < 0 < gap.max()


def test_sampled_reverse_kl_estimates_reverse_kl_and_its_gradient_without_bias():
    """Every token of the vocabulary once, by its probability: the expectation, exactly."""
    normal = normals(4)
    hidden = normal(1, HIDDEN).requires_grad_()
    weight = normal(VOCABULARY, HIDDEN)
    teacher = ((1.0, HeadInputs(normal(1, HIDDEN).expand(VOCABULARY, -1), weight)),)
    student = HeadInputs(hidden.expand(VOCABULARY, -1), weight)
    probabilities = (hidden @ weight.T).softmax(-1)[0].detach()
    responses = ResponseTokens(torch.arange(VOCABULARY), torch.zeros(VOCABULARY), probabilities)
    config = ObjectiveSection(divergence="sampled_reverse_kl", importance_clip=None)
    estimated = objective(student, teacher, responses, config, PLAIN_LAW).loss

    one = ResponseTokens(torch.zeros(1, dtype=torch.int64), torch.zeros(1), torch.ones(1))
    exact = objective(
        HeadInputs(hidden, weight),
        ((1.0, replace(teacher[0][1], hidden_TD=teacher[0][1].hidden_TD[:1])),),
        one,
        ObjectiveSection(divergence="reverse_kl", top_k=None, importance_clip=None),
        PLAIN_LAW,
    ).loss
    torch.testing.assert_close(estimated, exact)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, hidden)[0] for loss in (estimated, exact))
    )


@pytest.mark.parametrize("top_k", [TOP_K, None])
@pytest.mark.parametrize("rows_per_chunk", [5, 1000])
@pytest.mark.parametrize(
    "has_bias, scale, softcap",
    [(True, 1.0, None), (False, 0.3, None), (False, 1.0, 2.0), (True, 1.7, 3.0)],
)
def test_bias_scale_and_softcap_equal_the_naive_computation(
    has_bias, scale, softcap, rows_per_chunk, top_k
):
    student, ((_, teacher),), responses = problem(5)
    normal = normals(6)
    student = replace(
        student,
        bias_V=normal(VOCABULARY).requires_grad_() if has_bias else None,
        scale=scale,
        softcap=softcap,
    )
    teacher = replace(teacher, bias_V=normal(VOCABULARY), scale=0.8, softcap=4.0)
    config = ObjectiveSection(top_k=top_k, jsd_teacher_weight=0.3)
    chunk_elements = rows_per_chunk * VOCABULARY
    assert_equals_naive(
        student, ((1.0, teacher),), responses, config, chunk_elements=chunk_elements
    )


@pytest.mark.parametrize("kind", ["jsd", "sampled_reverse_kl"])
@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_a_teacher_may_be_a_mixture_of_logits_with_the_student_as_a_constant(kind, top_k):
    student, ((_, other),), responses = problem(7)
    constant = HeadInputs(student.hidden_TD.detach(), student.weight_VD.detach())
    config = ObjectiveSection(divergence=kind, top_k=top_k)
    mixed = ((0.9, other), (0.1, student))
    expected = naive(student, ((0.9, other), (0.1, constant)), responses, config)
    found = objective(student, mixed, responses, config, LAW, 5 * VOCABULARY).loss
    torch.testing.assert_close(found, expected)
    for ours, wanted in zip(
        torch.autograd.grad(found, leaves_of(student)),
        torch.autograd.grad(expected, leaves_of(student)),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted)


def test_a_tied_head_gets_the_gradients_of_both_uses():
    normal = normals(8)
    embedding = normal(VOCABULARY, HIDDEN).requires_grad_()
    ids = torch.arange(TOKENS)
    _, teacher, responses = problem(8)
    config = ObjectiveSection(top_k=TOP_K)

    def gradient(compute) -> Tensor:
        student = HeadInputs(torch.tanh(embedding[ids]), embedding)
        return torch.autograd.grad(compute(student), embedding)[0]

    torch.testing.assert_close(
        gradient(lambda student: objective(student, teacher, responses, config, LAW).loss),
        gradient(lambda student: naive(student, teacher, responses, config)),
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "config, value, gradient",
    [
        ({}, 0.1696420256, [0.107547, -0.093654, 0.010613, -0.005997, -0.002206, -0.016303]),
        (
            {"divergence": "forward_kl"},
            0.6732770863,
            [0.466714, -0.464144, 0.069417, -0.017617, -0.006481, -0.047889],
        ),
        (
            {"divergence": "reverse_kl"},
            0.8159335969,
            [0.557893, -0.409792, 0.000138, -0.036278, -0.013346, -0.098615],
        ),
        ({"tail": False}, 0.1940789243, [0.108427, -0.116513, 0.008086, 0, 0, 0]),
        ({"jsd_teacher_weight": 0.3}, 0.1397246369, None),
        ({"jsd_teacher_weight": 0.7, "tail": False}, 0.1681307094, None),
    ],
)
def test_objective_has_the_golden_values_and_gradients(config, value, gradient, dtype, tolerance):
    """Specification 4.3 has them: the head is the identity, so that hidden states are logits."""
    student = torch.tensor([[2.0, 1.0, 0.5, -1.0, -2.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.5, 2.5, 0.0, 1.0, -3.0, -0.5]], dtype=dtype)
    identity = torch.eye(6, dtype=dtype)
    one = ResponseTokens(torch.zeros(1, dtype=torch.int64), torch.zeros(1), torch.ones(1))
    loss = objective(
        HeadInputs(student, identity),
        ((1.0, HeadInputs(teacher, identity)),),
        one,
        ObjectiveSection(top_k=3, importance_clip=None, **config),
        PLAIN_LAW,
    ).loss
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=tolerance)
    if gradient is not None:
        assert student.grad[0].tolist() == pytest.approx(gradient, abs=2e-6)  # six printed digits


# ---- numerics ------------------------------------------------------------------------------------
def confident(dtype: torch.dtype) -> tuple[HeadInputs, MixedHeads, ResponseTokens]:
    """Every other row is so sure that the tail's floor binds, for either model."""
    student, ((_, teacher),), responses = problem(9, torch.float64)
    factor_T1 = torch.where(torch.arange(TOKENS) % 2 == 0, 30.0, 1.0)[:, None].double()
    student = HeadInputs(
        (student.hidden_TD.detach() * factor_T1).to(dtype).requires_grad_(),
        student.weight_VD.detach().to(dtype).requires_grad_(),
    )
    teacher = HeadInputs((teacher.hidden_TD * factor_T1).to(dtype), teacher.weight_VD.to(dtype))
    shares = responses.shares_T.to(dtype)
    rollout = responses.rollout_logprobs_T.to(dtype)
    return (
        student,
        ((1.0, teacher),),
        replace(responses, shares_T=shares, rollout_logprobs_T=rollout),
    )


def floored_rows(student: HeadInputs) -> Tensor:
    top = (student.hidden_TD @ student.weight_VD.T).log_softmax(-1).topk(TOP_K).values
    return torch.logsumexp(top, -1) > TAIL_CEILING


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
def test_gradient_is_that_of_the_value_where_the_tail_floor_binds(kind):
    student, teacher, responses = confident(torch.float64)
    assert 0 < floored_rows(student).sum() < TOKENS
    config = ObjectiveSection(divergence=kind, top_k=TOP_K, importance_clip=None)
    assert_equals_naive(student, teacher, responses, config, PLAIN_LAW, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl", "sampled_reverse_kl"])
@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_float32_is_near_float64_also_where_the_tail_floor_binds(kind, top_k):
    config = ObjectiveSection(divergence=kind, top_k=top_k, importance_clip=None)
    found = {}
    for dtype in (torch.float32, torch.float64):
        student, teacher, responses = confident(torch.float32)
        student = HeadInputs(*(x.detach().to(dtype).requires_grad_() for x in leaves_of(student)))
        teacher = (
            (1.0, HeadInputs(teacher[0][1].hidden_TD.to(dtype), teacher[0][1].weight_VD.to(dtype))),
        )
        result = objective(student, teacher, responses, config, PLAIN_LAW)
        assert result.loss.dtype == dtype and result.tokens.divergence.dtype == dtype
        gradients = torch.autograd.grad(result.loss, leaves_of(student))
        found[dtype] = [result.loss.detach(), result.tokens.divergence, *gradients]
    for narrow, wide in zip(*found.values(), strict=True):
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=2e-6 * wide.abs().max())


@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_bfloat16_hidden_states_give_a_float32_loss_and_gradients_in_the_inputs_dtypes(top_k):
    student, teacher, responses = problem(11, torch.float32)
    hidden = student.hidden_TD.detach().bfloat16().requires_grad_()
    coarse = HeadInputs(hidden, student.weight_VD)
    largest = naive_logits(((1.0, coarse),), 1.0).topk(TOP_K + 1).values
    assert (largest[:, -2] > largest[:, -1]).all(), "a tie: either choice would be right"
    config = ObjectiveSection(top_k=top_k)
    result = objective(coarse, teacher, responses, config, LAW, 4 * VOCABULARY)
    assert result.loss.dtype == torch.float32
    hidden, weight = torch.autograd.grad(result.loss, leaves_of(coarse))
    assert (hidden.dtype, weight.dtype) == (torch.bfloat16, torch.float32)
    expected = torch.autograd.grad(naive(coarse, teacher, responses, config), leaves_of(coarse))
    for found, wanted in zip((hidden, weight), expected, strict=True):
        assert (found - wanted).float().norm() < 0.01 * wanted.float().norm()


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl", "sampled_reverse_kl"])
@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_equal_models_have_zero_loss_and_gradient(kind, top_k):
    student, _, responses = problem()
    config = ObjectiveSection(divergence=kind, top_k=top_k)
    loss = objective(student, ((1.0, student),), responses, config, PLAIN_LAW).loss
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.hidden_TD.grad.abs().max() < 1e-12
    assert student.weight_VD.grad.abs().max() < 1e-12


@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_half_half_jsd_is_at_most_log_2_however_far_apart_the_models_are(top_k):
    student, ((_, teacher),), responses = problem(11, torch.float32)
    far = [HeadInputs(40 * head.hidden_TD, head.weight_VD) for head in (student, teacher)]
    config = ObjectiveSection(top_k=top_k, importance_clip=None)
    result = objective(far[0], ((1.0, far[1]),), responses, config, PLAIN_LAW)
    assert result.tokens.divergence.max() <= math.log(2) + 1e-6
    assert result.tokens.divergence.max() > 0.6
    assert torch.isfinite(torch.autograd.grad(result.loss, student.hidden_TD)[0]).all()


# ---- the contract with autograd ------------------------------------------------------------------
@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)])
def test_gradients_are_made_for_what_requires_grad_alone(needed):
    student, teacher, responses = problem()
    for leaf, is_needed in zip(leaves_of(student), needed, strict=True):
        leaf.requires_grad_(is_needed)
    result = objective(student, teacher, responses, ObjectiveSection(top_k=TOP_K), LAW)
    assert result.loss.requires_grad == any(needed)
    if any(needed):
        result.loss.backward()
    for leaf, is_needed in zip(leaves_of(student), needed, strict=True):
        assert (leaf.grad is not None) == is_needed


def test_without_grad_nothing_is_made_for_a_backward_pass():
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=TOP_K)
    with torch.no_grad(), LargestTensor() as largest:
        result = objective(student, teacher, responses, config, LAW, VOCABULARY)
    assert not result.loss.requires_grad
    assert largest.elements < VOCABULARY * HIDDEN  # no gradient of the head
    torch.testing.assert_close(
        result.loss, objective(student, teacher, responses, config, LAW).loss.detach()
    )


def test_backward_scales_by_what_comes_from_above_and_runs_once():
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=TOP_K)
    loss = objective(student, teacher, responses, config, LAW).loss
    (-2.5 * loss).backward(retain_graph=True)
    expected = torch.autograd.grad(naive(student, teacher, responses, config), leaves_of(student))
    for leaf, wanted in zip(leaves_of(student), expected, strict=True):
        torch.testing.assert_close(leaf.grad, -2.5 * wanted)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_teacher_and_rollout_get_no_gradient():
    student, ((_, teacher),), responses = problem()
    teacher = HeadInputs(teacher.hidden_TD.requires_grad_(), teacher.weight_VD.requires_grad_())
    config = ObjectiveSection(top_k=TOP_K)
    objective(student, ((1.0, teacher),), responses, config, PLAIN_LAW).loss.backward()
    assert teacher.hidden_TD.grad is None and teacher.weight_VD.grad is None


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_loss_and_gradient_do_not_depend_on_the_micro_batch_split(aggregation):
    config = ObjectiveSection(top_k=TOP_K, aggregation=aggregation)
    student, ((_, teacher),), responses = problem(1)
    shares = token_shares(LENGTHS, aggregation, len(LENGTHS), TOKENS, torch.float64)
    assert shares.sum().item() == pytest.approx(1)
    leaves = (student.hidden_TD, student.weight_VD)

    def loss(start: int, end: int) -> Tensor:
        part = slice(start, end)
        return objective(
            HeadInputs(student.hidden_TD[part], student.weight_VD),
            ((1.0, HeadInputs(teacher.hidden_TD[part], teacher.weight_VD)),),
            ResponseTokens(
                responses.token_ids_T[part], responses.rollout_logprobs_T[part], shares[part]
            ),
            config,
            LAW,
        ).loss

    whole = loss(0, TOKENS)
    split = loss(0, 6) + loss(6, 6) + loss(6, 15) + loss(15, TOKENS)  # one of them is empty
    torch.testing.assert_close(split, whole)
    for found, wanted in zip(
        torch.autograd.grad(split, leaves), torch.autograd.grad(whole, leaves), strict=True
    ):
        torch.testing.assert_close(found, wanted)


# ---- memory --------------------------------------------------------------------------------------
class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest new tensor that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        outputs = output if isinstance(output, tuple | list) else [output]
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        sizes = [
            value.numel()
            for value in outputs
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in known
        ]
        self.elements = max([self.elements, *sizes])
        return output


@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_objective_never_holds_all_rows_times_the_vocabulary(top_k):
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=top_k)
    with LargestTensor() as largest:
        objective(student, teacher, responses, config, LAW, 9 * VOCABULARY).loss.backward()
    assert largest.elements == 9 * VOCABULARY


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("num_rows", [1, 512, 1352, 8192])
def test_plan_takes_no_more_than_the_device_bears(device, num_rows):
    plan = plan_chunks(num_rows, 248_320, torch.device(device), None)
    assert plan.rows * 248_320 <= {"cpu": 2**25, "cuda": 2**28}[device]
    scratch = max(plan.rows * plan.width, plan.group * 248_320)
    assert scratch <= max(2**19, plan.rows * 248_320 // 8)


@pytest.mark.parametrize(
    ("device", "num_rows", "chunks"),
    [
        ("cpu", 512, 8),  # a fraction of the rows, though all would fit
        ("cpu", 1352, 11),
        ("cuda", 1000, 1),
        ("cuda", 1352, 2),  # one group of the published run
        ("cuda", 5408, 6),
    ],
)
def test_plan_reads_the_head_so_often(device, num_rows, chunks):
    rows = plan_chunks(num_rows, 248_320, torch.device(device), None).rows
    assert math.ceil(num_rows / rows) == chunks
    assert rows - (num_rows - (chunks - 1) * rows) < chunks  # about equally long


def test_plan_does_not_split_what_is_small_and_takes_a_given_size_at_its_word():
    assert plan_chunks(100, 500, torch.device("cpu"), None).rows == 100
    plan = plan_chunks(100, 500, torch.device("cpu"), 8000)
    assert (plan.rows, plan.width, plan.group) == (16, 62, 2)


# ---- products of 16-bit factors in float32 -------------------------------------------------------
@pytest.fixture
def wide_products_on_cpu(monkeypatch: pytest.MonkeyPatch):
    """What CUDA has for them, on a CPU: torch registers no kernel there."""

    def product(left, right, dtype):
        assert left.dtype == right.dtype == torch.bfloat16 and dtype == torch.float32
        return left.float() @ right.float()

    def product_into(left, right, dtype, *, out):
        return out.copy_(product(left, right, dtype))

    def sum_into(total, left, right, dtype, *, beta=1, alpha=1, out):
        assert total.dtype == torch.float32 and beta == alpha == 1
        return out.copy_(total + product(left, right, dtype))

    monkeypatch.setattr(head_module, "_MULTIPLYING_WIDE", {"cpu"})
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.dtype", product, "CPU")
        library.impl("mm.dtype_out", product_into, "CPU")
        library.impl("addmm.dtype_out", sum_into, "CPU")
        yield


@pytest.mark.usefixtures("wide_products_on_cpu")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_wide_products_of_bfloat16_equal_the_computation_in_float32(top_k, with_bias):
    """Logits, divergence and figures are those of the same rounded inputs, unrounded since."""
    (student, ((_, teacher),), responses), config = problem(), ObjectiveSection(top_k=top_k)
    normal = normals(5)
    biases = [normal(VOCABULARY) if with_bias else None for _ in range(2)]

    def run(dtype):
        def side(head, bias):
            tensors = (head.hidden_TD, head.weight_VD, bias)
            rounded = [x if x is None else x.detach().bfloat16().to(dtype) for x in tensors]
            return HeadInputs(*rounded, scale=0.5, softcap=4.0)

        ours = side(student, biases[0])
        for tensor in (ours.hidden_TD, ours.weight_VD):
            tensor.requires_grad_()
        single = ResponseTokens(
            responses.token_ids_T, responses.rollout_logprobs_T.float(), responses.shares_T.float()
        )
        heads = ((1.0, side(teacher, biases[1])),)
        result = objective(ours, heads, single, config, LAW, 9 * VOCABULARY)
        result.loss.backward()
        return result, ours.hidden_TD.grad.float(), ours.weight_VD.grad.float()

    (narrow, *narrow_gradients), (wide, *wide_gradients) = run(torch.bfloat16), run(torch.float32)
    torch.testing.assert_close(narrow.loss, wide.loss, rtol=1e-6, atol=1e-7)
    for field in fields(narrow.tokens):
        found, expected = getattr(narrow.tokens, field.name), getattr(wide.tokens, field.name)
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
    for found, expected in zip(narrow_gradients, wide_gradients, strict=True):
        # d loss / d logits, and the sums over it at the end, are rounded to 16 bits.
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * expected.abs().max())


# ---- top k ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [50, 640, 1000, 1001, 4099])
@pytest.mark.parametrize("levels", [7, 10**9])
def test_top_k_by_blocks_is_exact_also_among_ties(columns, levels):
    generator = torch.Generator().manual_seed(columns)
    values = torch.randint(levels, (13, columns), generator=generator).double()
    values[0] = values[0].sort().values  # all of the largest in the last blocks
    values[1] = values[1].sort(descending=True).values
    ids = top_k_ids(values, TOP_K)
    assert all(len(set(row)) == TOP_K for row in ids.tolist())
    found = values.gather(1, ids).sort(descending=True).values
    torch.testing.assert_close(found, values.topk(TOP_K).values, rtol=0, atol=0)


# ---- figures, weights, shares --------------------------------------------------------------------
def test_importance_weights_come_from_rollout_logprobs_and_are_truncated_above():
    student = torch.log(torch.tensor([0.5, 0.5, 0.5, 1e-30]))
    rollout = torch.log(torch.tensor([0.5, 0.1, 1.0, 1.0]))
    weights = importance_weights(student, rollout, 2.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, 0.5, 2.0611537e-09], rel=1e-4)
    assert importance_weights(student, rollout, None).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("top_k", [TOP_K, None])
def test_weights_scale_the_loss_of_their_tokens_and_figures_are_those_of_the_models(top_k):
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=top_k, importance_clip=2.0)
    tokens = objective(student, teacher, responses, config, LAW, 6 * VOCABULARY).tokens
    loss = objective(student, teacher, responses, config, LAW).loss
    by_hand = (responses.shares_T * tokens.weight * tokens.divergence).sum()
    assert loss.item() == pytest.approx(by_hand.item())
    log_s = naive_logits(((1.0, student),), TEMPERATURE).log_softmax(-1).detach()
    log_t = naive_logits(teacher, TEMPERATURE).log_softmax(-1)
    sampled = responses.token_ids_T[:, None]
    allowed = log_s.index_fill(1, BANNED, -torch.inf).log_softmax(-1)
    torch.testing.assert_close(tokens.student_logprob, allowed.gather(1, sampled)[:, 0])
    torch.testing.assert_close(tokens.teacher_logprob, log_t.gather(1, sampled)[:, 0])
    torch.testing.assert_close(tokens.entropy, -(log_s.exp() * log_s).sum(-1))


@pytest.mark.parametrize("chunk_elements", [None, 3 * VOCABULARY])
def test_sampled_logprobs_are_over_the_whole_vocabulary(chunk_elements):
    student, ((_, teacher),), responses = problem(12)
    mixed = ((0.7, teacher), (0.3, replace(student, softcap=2.0)))
    found = sampled_logprobs(mixed, responses.token_ids_T, TEMPERATURE, chunk_elements)
    assert found.dtype == torch.float32 and not found.requires_grad
    expected = naive_logits(mixed, TEMPERATURE).log_softmax(-1)
    expected = expected.gather(1, responses.token_ids_T[:, None])[:, 0]
    torch.testing.assert_close(found, expected.detach().float())


def test_micro_batch_mean_shares_are_the_micro_batch_s_sequences_over_its_tokens():
    shares = token_shares(torch.tensor([3, 5]), "micro_batch_mean", 8, 100, torch.float64)
    assert shares.tolist() == pytest.approx([(2 / 8) / 8] * 8)
    others = token_shares(torch.tensor([1] * 6), "micro_batch_mean", 8, 100, torch.float64)
    assert shares.sum().item() + others.sum().item() == pytest.approx(1)


# ---- heads of models -----------------------------------------------------------------------------
def model_with(head: nn.Linear, **text_options) -> SimpleNamespace:
    text = SimpleNamespace(**text_options)
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text), get_output_embeddings=lambda: head
    )


@pytest.mark.parametrize(
    "options, scale, softcap",
    [
        ({}, 1.0, None),
        ({"final_logit_softcapping": None}, 1.0, None),
        ({"final_logit_softcapping": 30.0}, 1.0, 30.0),
        ({"logit_scale": 0.0625}, 0.0625, None),
        ({"logits_scaling": 8.0}, 0.125, None),
    ],
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_head_of_a_model_has_its_weight_bias_scale_and_softcap(options, scale, softcap, has_bias):
    linear = nn.Linear(HIDDEN, VOCABULARY, bias=has_bias)
    hidden = torch.zeros(3, HIDDEN)
    head = head_of(model_with(linear, **options), hidden)
    assert head.hidden_TD is hidden and head.weight_VD is linear.weight
    assert head.bias_V is linear.bias
    assert (head.scale, head.softcap) == (scale, softcap)


def test_a_weight_that_one_rank_holds_is_taken_as_it_is():
    weight = torch.zeros(3, 2, requires_grad=True)
    assert full_weight(weight, torch.bfloat16) is weight


RANK_PROGRAM = """
import sys
from tests.learner.objective.test_objective import check_shared_head
check_shared_head(int(sys.argv[1]), sys.argv[2])
"""


def test_ranks_that_share_a_head_get_the_gradient_of_all_tokens(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, str(rank), f"file://{tmp_path}/ranks"],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=150)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors


def check_shared_head(rank: int, store: str) -> None:
    """In a process of its own: half of the head and half of the tokens."""
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    student, ((_, teacher),), responses = problem(13)
    config = ObjectiveSection(top_k=TOP_K)
    expected = torch.autograd.grad(
        naive(student, ((1.0, teacher),), responses, config), student.weight_VD
    )[0]
    linear = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    mesh = init_device_mesh("cpu", (2,))
    linear.weight = nn.Parameter(distribute_tensor(student.weight_VD.detach(), mesh, [Shard(0)]))
    mine = slice(0, 9) if rank == 0 else slice(9, TOKENS)
    of_mine = ResponseTokens(
        responses.token_ids_T[mine], responses.rollout_logprobs_T[mine], responses.shares_T[mine]
    )
    objective(
        head_of(model_with(linear), student.hidden_TD[mine]),
        ((1.0, replace(teacher, hidden_TD=teacher.hidden_TD[mine])),),
        of_mine,
        config,
        LAW,
    ).loss.backward()
    torch.testing.assert_close(linear.weight.grad.full_tensor(), expected)
    distributed.barrier()  # neither leaves while the other still talks to it
    distributed.destroy_process_group()
