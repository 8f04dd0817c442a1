"""The objective: importance-weighted divergence of response tokens.

`learner.objective` has the drawing and the equations. The objective starts from the hidden states
that predict response tokens and from the output heads of both models, and works through them in
chunks of rows. The loss is a scalar sum, so that its gradients need not wait for the backward pass:
they are made chunk by chunk while the logits are there, which are never computed twice, and
backward only scales them. Axes: T response tokens, D hidden size, V vocabulary, K top tokens.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.config import ObjectiveSection
from learner.objective.chunk import Task, evaluate_chunk
from learner.objective.gradients import Gradients
from learner.objective.head import HeadInputs, MixedHeads, slices, wide_dtype, without_grad
from learner.objective.normaliser import logprobs_at
from learner.objective.plan import plan_chunks
from learner.objective.tokens import ResponseTokens, SamplingLaw, TokenFigures


@dataclass(frozen=True)
class ObjectiveResult:
    loss: Tensor  # scalar with grad; sums over micro-batches to the loss of the step
    tokens: TokenFigures


def objective(
    student: HeadInputs,
    teacher: MixedHeads,
    responses: ResponseTokens,
    config: ObjectiveSection,
    law: SamplingLaw,
    chunk_elements: int | None = None,
) -> ObjectiveResult:
    """Sum over tokens of share * weight * divergence (equation 8), and the figures behind it.

    Gradients reach `student` alone, and of it what requires grad; the choice of the top K, the
    weights and the teacher are constants. Backward can run once.

    Of "sampled_reverse_kl" the loss is sum of share * weight * (log p_S - log p_T), an unbiased
    estimate of KL(student || teacher) for tokens that the student sampled. Its own gradient says
    nothing about that KL, whose expectation is over what is sampled; the gradient given is the
    score-function estimate, that of share * weight * constant(log p_S - log p_T) * log p_S.

    Args:
        student: float32, float64 or bfloat16 hidden states [T, D]; weight [V, D].
        teacher: the same T rows and the same V; D may differ.
        responses: all [T].
        chunk_elements: logits of one model that may exist at a time; None suits them to the device.

    Returns:
        A float32 loss (float64 where hidden states are).
    """
    inputs = (student.hidden_TD, student.weight_VD, student.bias_V)
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    num_tokens, vocabulary = len(student.hidden_TD), student.weight_VD.shape[0]
    with torch.no_grad():
        plan = plan_chunks(num_tokens, vocabulary, student.hidden_TD.device, chunk_elements)
        teacher = tuple((weight, without_grad(head)) for weight, head in teacher)
        buffer = student.hidden_TD.new_empty(plan.rows, vocabulary, dtype=wide_dtype(student))
        task = Task(without_grad(student), teacher, responses, config, law, plan, buffer)
        gradients = Gradients(task.student, needs)
        tokens = _empty_figures(task.student)
        for rows in slices(num_tokens, plan.rows):
            figures, gradient_TV = evaluate_chunk(task, rows, any(needs))
            _put(figures, tokens, rows)
            if gradient_TV is not None:
                gradients.add(rows, gradient_TV, plan.width)
        loss = (responses.shares_T * tokens.weight * tokens.divergence).sum()
    if any(needs):
        loss = _WithGradients.apply(loss, gradients, *inputs)  # type: ignore[no-untyped-call]
    return ObjectiveResult(loss, tokens)


@torch.no_grad()
def sampled_logprobs(
    heads: MixedHeads,
    token_ids_T: Tensor,
    temperature: float,
    chunk_elements: int | None = None,
) -> Tensor:
    """Log-probabilities of given tokens over the whole vocabulary, [T], nats, float32, no grad.

    Args:
        token_ids_T: int64.
        chunk_elements: as in `objective`.
    """
    heads = tuple((weight, without_grad(head)) for weight, head in heads)
    vocabulary = heads[0][1].weight_VD.shape[0]
    plan = plan_chunks(len(token_ids_T), vocabulary, token_ids_T.device, chunk_elements)
    logprobs_T = torch.empty(token_ids_T.shape, dtype=torch.float32, device=token_ids_T.device)
    for rows in slices(len(token_ids_T), plan.rows):
        ids_T1 = token_ids_T[rows, None]
        logprobs_T[rows] = logprobs_at(heads, rows, ids_T1, temperature, plan.width)[:, 0]
    return logprobs_T


class _WithGradients(torch.autograd.Function):
    """A scalar whose gradients are known before its backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *inputs: Tensor | None) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.gradients.take(grad_value)


def _empty_figures(student: HeadInputs) -> TokenFigures:
    shape, dtype = student.hidden_TD.shape[:1], wide_dtype(student)
    columns = [student.hidden_TD.new_empty(shape, dtype=dtype) for _ in fields(TokenFigures)]
    return TokenFigures(*columns)


def _put(figures: TokenFigures, into: TokenFigures, rows: slice) -> None:
    for field in fields(TokenFigures):
        getattr(into, field.name)[rows] = getattr(figures, field.name)
