import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.config import ObjectiveSection
from learner.objective import (
    HeadInputs,
    ResponseTokens,
    SamplingLaw,
    importance_weights,
    objective,
    token_shares,
)

TOKENS, HIDDEN, VOCABULARY, TOP_K = 23, 8, 40, 6
LENGTHS = torch.tensor([5, 1, 9, 8])
TEMPERATURE = 0.7
BANNED = torch.tensor([3, 17])
LAW = SamplingLaw(TEMPERATURE, BANNED)
PLAIN_LAW = SamplingLaw(1.0, torch.tensor([], dtype=torch.int64))


def problem(seed: int = 0, dtype=torch.float64) -> tuple[HeadInputs, HeadInputs, ResponseTokens]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 0.7 * torch.randn(*shape, generator=generator, dtype=dtype)

    student = HeadInputs(
        normal(TOKENS, HIDDEN).requires_grad_(), normal(VOCABULARY, HIDDEN).requires_grad_()
    )
    teacher = HeadInputs(normal(TOKENS, HIDDEN), normal(VOCABULARY, HIDDEN))
    responses = ResponseTokens(
        torch.randint(18, VOCABULARY, (TOKENS,), generator=generator),  # none of them is banned
        -normal(TOKENS).abs() * 3,
        token_shares(LENGTHS, "sequence_mean", len(LENGTHS), TOKENS, dtype),
    )
    return student, teacher, responses


def naive(student, teacher, responses, config: ObjectiveSection) -> Tensor:
    """The whole [T, V] computation, written from the formulas of the specification."""
    log_s = (student.hidden_TD @ student.weight_VD.T / TEMPERATURE).log_softmax(-1)
    log_t = (teacher.hidden_TD @ teacher.weight_VD.T / TEMPERATURE).log_softmax(-1)
    top = log_s.detach().argsort(-1, descending=True)[:, : config.top_k]
    s, t = log_s.gather(1, top).exp(), log_t.gather(1, top).exp()
    if config.tail:
        s = torch.cat([s, 1 - s.sum(-1, keepdim=True)], -1)
        t = torch.cat([t, 1 - t.sum(-1, keepdim=True)], -1)
    else:
        s, t = s / s.sum(-1, keepdim=True), t / t.sum(-1, keepdim=True)
    beta = config.jsd_teacher_weight
    m = (1 - beta) * s + beta * t
    per_token = {
        "forward_kl": (t * (t / s).log()).sum(-1),
        "reverse_kl": (s * (s / t).log()).sum(-1),
        "jsd": ((1 - beta) * s * (s / m).log() + beta * t * (t / m).log()).sum(-1),
    }[config.divergence]
    allowed = log_s.detach().index_fill(1, BANNED, -torch.inf).log_softmax(-1)
    sampled = allowed.gather(1, responses.token_ids_T[:, None])[:, 0]
    ratio = (sampled - responses.rollout_logprobs_T).exp().clamp(max=config.importance_clip)
    sequences = torch.split(ratio * per_token, LENGTHS.tolist())
    return torch.stack([sequence.mean() for sequence in sequences]).mean()


@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000])
def test_objective_equals_the_naive_computation(kind, tail, rows_per_chunk):
    config = ObjectiveSection(divergence=kind, tail=tail, top_k=TOP_K, jsd_teacher_weight=0.3)
    student, teacher, responses = problem()
    leaves = (student.hidden_TD, student.weight_VD)
    expected = naive(student, teacher, responses, config)
    expected_gradients = torch.autograd.grad(expected, leaves)

    result = objective(student, teacher, responses, config, LAW, rows_per_chunk * VOCABULARY)
    gradients = torch.autograd.grad(result.loss, leaves)

    torch.testing.assert_close(result.loss, expected, rtol=1e-9, atol=1e-12)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_loss_and_gradient_do_not_depend_on_the_micro_batch_split(aggregation):
    config = ObjectiveSection(top_k=TOP_K, aggregation=aggregation)
    student, teacher, responses = problem(1)
    shares = token_shares(LENGTHS, aggregation, len(LENGTHS), TOKENS, torch.float64)
    assert shares.sum().item() == pytest.approx(1)
    leaves = (student.hidden_TD, student.weight_VD)

    def loss(start: int, end: int) -> Tensor:
        part = slice(start, end)
        return objective(
            HeadInputs(student.hidden_TD[part], student.weight_VD),
            HeadInputs(teacher.hidden_TD[part], teacher.weight_VD),
            ResponseTokens(
                responses.token_ids_T[part], responses.rollout_logprobs_T[part], shares[part]
            ),
            config,
            LAW,
        ).loss

    whole = loss(0, TOKENS)
    split = loss(0, 6) + loss(6, 15) + loss(15, TOKENS)
    torch.testing.assert_close(split, whole)
    for found, wanted in zip(
        torch.autograd.grad(split, leaves), torch.autograd.grad(whole, leaves), strict=True
    ):
        torch.testing.assert_close(found, wanted)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        outputs = output if isinstance(output, tuple | list) else [output]
        sizes = [value.numel() for value in outputs if isinstance(value, Tensor)]
        self.elements = max([self.elements, *sizes])
        return output


def test_objective_never_holds_all_rows_times_the_vocabulary():
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=TOP_K)
    with LargestTensor() as largest:
        objective(student, teacher, responses, config, LAW, 9 * VOCABULARY).loss.backward()
    assert largest.elements == 9 * VOCABULARY


def test_teacher_and_rollout_get_no_gradient():
    student, teacher, responses = problem()
    teacher = HeadInputs(teacher.hidden_TD.requires_grad_(), teacher.weight_VD.requires_grad_())
    objective(student, teacher, responses, ObjectiveSection(top_k=TOP_K), PLAIN_LAW).loss.backward()
    assert teacher.hidden_TD.grad is None and teacher.weight_VD.grad is None


def test_equal_models_have_zero_loss_and_gradient():
    student, _, responses = problem()
    loss = objective(student, student, responses, ObjectiveSection(top_k=TOP_K), PLAIN_LAW).loss
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.hidden_TD.grad.abs().max() < 1e-12


def test_importance_weights_come_from_rollout_logprobs_and_are_truncated_above():
    student = torch.log(torch.tensor([0.5, 0.5, 0.5, 1e-30]))
    rollout = torch.log(torch.tensor([0.5, 0.1, 1.0, 1.0]))
    weights = importance_weights(student, rollout, 2.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, 0.5, 2.0611537e-09], rel=1e-4)
    assert importance_weights(student, rollout, None).tolist() == [1, 1, 1, 1]


def test_weights_scale_the_loss_of_their_tokens():
    student, teacher, responses = problem()
    config = ObjectiveSection(top_k=TOP_K, importance_clip=2.0)
    result = objective(student, teacher, responses, config, LAW)
    by_hand = (responses.shares_T * result.tokens.weight * result.tokens.divergence).sum()
    assert result.loss.item() == pytest.approx(by_hand.item())
    log_s = (student.hidden_TD @ student.weight_VD.T / TEMPERATURE).log_softmax(-1)
    allowed = log_s.index_fill(1, BANNED, -torch.inf).log_softmax(-1)
    sampled = allowed.gather(1, responses.token_ids_T[:, None])[:, 0]
    torch.testing.assert_close(result.tokens.student_logprob, sampled.detach())
    torch.testing.assert_close(
        result.tokens.entropy, -(log_s.exp() * log_s).sum(-1).detach(), rtol=1e-6, atol=1e-9
    )


def test_top_k_over_the_whole_vocabulary_is_the_full_divergence():
    student, teacher, responses = problem()
    wide = objective(student, teacher, responses, ObjectiveSection(top_k=100), PLAIN_LAW)
    log_s = (student.hidden_TD @ student.weight_VD.T).log_softmax(-1)
    log_t = (teacher.hidden_TD @ teacher.weight_VD.T).log_softmax(-1)
    m = (0.5 * log_s.exp() + 0.5 * log_t.exp()).log()
    full = 0.5 * (log_s.exp() * (log_s - m) + log_t.exp() * (log_t - m)).sum(-1)
    torch.testing.assert_close(wide.tokens.divergence, full.detach(), rtol=1e-6, atol=1e-9)
