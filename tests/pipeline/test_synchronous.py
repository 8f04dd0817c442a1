"""With max_staleness = 0 the system is the synchronous algorithm.

Broker, rollout servers and learner run as real processes and are compared with a plain loop in this
file: bit for bit where the loop uses the system's own sampler, prefix sharing and objective; to
rounding where it is written with nothing but transformers and autograd.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config import RunConfig
from common.rendering import RenderedPrompt, Renderer
from tests.pipeline.support import (
    BRANCHES,
    TOKENS,
    Responses,
    Views,
    assert_close,
    assert_same_bits,
    assert_traced,
    make_config,
    plain_loop,
    run_processes,
    sample_group,
    shared_prefix_loss,
)
from tests.plain_pixels import plain_pixel_values

pytestmark = pytest.mark.timeout(400)  # two systems of processes start


@pytest.mark.minutes(1)
def test_processes_equal_a_plain_loop(
    tmp_path: Path, checkpoint: Path, dataset: Path, one_thread: None
) -> None:
    one, again = (
        run_processes(make_config(tmp_path / f"servers-{n}", checkpoint, dataset, n))
        for n in (1, 2)
    )
    for ours, theirs in zip(one, again, strict=True):
        assert_same_bits(ours, theirs)
    assert_traced(tmp_path / "servers-2")

    config = make_config(tmp_path, checkpoint, dataset, 1)
    student, teacher = plain_loop(config, sample_group, shared_prefix_loss)
    assert_same_bits(one[0], student)
    assert_same_bits(one[1], teacher)

    naive_student, naive_teacher = plain_loop(config, naive_sample_group, naive_loss)
    assert_close(one[0], naive_student)
    assert_close(one[1], naive_teacher)
    start = load_file(checkpoint / "model.safetensors")
    moved = max((one[0][name] - start[name]).abs().max().item() for name in one[0])
    assert moved > 1e-3, "the comparison would hold without any training"


# ---- its parts, with transformers and autograd alone ---------------------------------------------
def naive_logits(
    model: Any, renderer: Renderer, prompt: RenderedPrompt, response: list[int]
) -> Tensor:
    """[T + 1, V]: what follows the prompt and each response token; a whole forward pass."""
    types = np.concatenate([prompt.mm_token_type_ids, np.zeros(len(response), np.int64)])
    ids = np.concatenate([prompt.input_ids, np.array(response, np.int64)])
    logits: Tensor = model(
        input_ids=torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy(types)[None],
        pixel_values=torch.from_numpy(plain_pixel_values(renderer, prompt)),
        image_grid_thw=torch.from_numpy(prompt.image_grid_thw),
    ).logits
    return logits[0, len(prompt.input_ids) - 1 :]


def naive_sample_group(
    engine: Any, renderer: Renderer, prompt: RenderedPrompt, seed: int
) -> Responses:
    responses: Responses = []
    for branch in range(BRANCHES):
        rng = np.random.default_rng(np.random.SeedSequence([seed, branch]))
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < TOKENS and renderer.tokenizer.eos_token_id not in ids:
            with torch.no_grad():
                logits = naive_logits(engine, renderer, prompt, ids)[-1]
            logits[renderer.vision_token_ids] = -torch.inf
            values = logits.double().log_softmax(-1)
            token = int((values.exp().cumsum(-1) <= rng.random()).sum())
            ids.append(token)
            logprobs.append(values[token].item())
        responses.append((ids, logprobs))
    return responses


def naive_loss(
    config: RunConfig,
    renderer: Renderer,
    student: Any,
    teacher: Any,
    groups: list[tuple[Views, Responses]],
) -> Tensor:
    """Mean over sequences of token means of weight * JSD over the student's top 8 and the rest."""
    means = []
    for (full, crop), responses in groups:
        for ids, rollout_logprobs in responses:
            ours = naive_logits(student, renderer, full, ids)[:-1].log_softmax(-1)
            with torch.no_grad():
                theirs = naive_logits(teacher, renderer, crop, ids)[:-1].log_softmax(-1)
            top = ours.topk(8, dim=-1).indices
            p, q = (with_rest(x.gather(-1, top).exp()) for x in (ours, theirs))
            mean = (p + q) / 2
            jsd = ((p * (p / mean).log() + q * (q / mean).log()) / 2).sum(-1)
            law = ours.detach().index_fill(1, torch.tensor(renderer.vision_token_ids), -torch.inf)
            sampled = law.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
            weight = (sampled - torch.tensor(rollout_logprobs)).exp().clamp(max=2.0)
            means.append((weight.float() * jsd).mean())
    return torch.stack(means).mean()


def with_rest(p: Tensor) -> Tensor:
    return torch.cat([p, 1 - p.sum(-1, keepdim=True)], dim=-1)
