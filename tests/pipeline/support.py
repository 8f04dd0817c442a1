"""A run of broker, learner and rollout worker, and the plain loop that it must equal."""

import asyncio
import copy
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config import RunConfig
from common.config_cli import build, dump_toml
from common.dataset import read_samples
from common.images import ImageStore
from common.rendering import RenderedPrompt, Renderer
from common.types import Sample
from deploy.supervision.supervisor import Supervisor
from deploy.trace import draw
from deploy.tracing.overview import look_at
from learner.model.packing import pack
from learner.model.sharding import clip_gradients
from learner.model.student import prepare_to_train, prompt_positions, response_hidden_states
from learner.objective.head import head_of
from learner.objective.loss import objective
from learner.objective.tokens import ResponseTokens
from learner.objective.tokens import SamplingLaw as LearnerLaw
from learner.views.inputs import PromptView, view_of
from rollout.embedded.sampler import Prompt, RequestLaw, generate
from tests.deploy.supervision.support import place_here
from tests.plain_pixels import plain_pixel_values
from tests.viewing import teacher_picture

STEPS, GROUPS, BRANCHES, TOKENS = 3, 4, 3, 6
BAN = -1e9
Weights = dict[str, Tensor]


def make_config(folder: Path, checkpoint: Path, dataset: Path, servers: int) -> RunConfig:
    return build(
        {
            "run": {"folder": folder, "seed": 7},
            "model": {
                "path": str(checkpoint),
                "dtype": "float32",
                "gradient_checkpointing": False,
            },
            "data": {"train": dataset, "shuffle": False},
            "broker": {"address": "tcp://127.0.0.1:0", "max_staleness": 0},
            "rollout": {
                "engine": "embedded",
                "servers": servers,
                "trajectories_per_sample": BRANCHES,
                "max_response_tokens": TOKENS,
                "deterministic": True,
                "threads": 1,
            },
            "objective": {"top_k": 8},
            # a large epsilon: gradients that are only rounding must not become whole updates
            "optimizer": {"lr": 1e-2, "warmup_steps": 2, "warmup_from_zero": False, "eps": 1e-3},
            "cluster": {"max_restarts": 0},  # a death is a failure of the test
            "learner": {"groups_per_step": GROUPS, "threads": 1, "device": "cpu"},
            "weights": {"dtype": "float32", "backend": "gloo"},
        }
    )


def run_processes(config: RunConfig) -> tuple[Weights, Weights]:
    """Student and teacher after a run of the real processes."""
    folder = config.run.folder
    assert folder is not None
    folder.mkdir()
    (folder / "config.toml").write_text(dump_toml(config))

    async def run() -> bool:
        return await Supervisor(config, folder, place_here).run(asyncio.Event())

    assert asyncio.run(run())
    last = folder / "checkpoints" / f"step-{STEPS:06d}"
    return load_file(last / "model.safetensors"), load_file(
        last / "teacher" / "weights.safetensors"
    )


def assert_traced(run: Path) -> None:
    """Each step's parts and groups are in the trace of a run that nothing has interrupted."""
    out = io.StringIO()
    found = look_at(run)
    draw(found, out)
    assert found.notes == []
    events = json.loads(out.getvalue())["traceEvents"]
    steps = [event for event in events if event["ph"] == "X" and event["name"] == "step"]
    arrows = [event["ts"] for event in events if event["ph"] == "f"]
    within = [sum(step["ts"] <= at <= step["ts"] + step["dur"] for at in arrows) for step in steps]
    assert within == [GROUPS] * STEPS
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for part in ("teacher_forward", "student_forward", "objective", "backward", "optimizer"):
            lasted_us = sum(
                event["dur"]
                for event in events
                if event["name"] == part and event["args"]["step"] == row["step"]
            )
            assert lasted_us == pytest.approx(row[f"time/{part}_s"] * 1e6, abs=20), (row, part)
    names = {event["name"] for event in events}
    assert {"prefill", "decode", "push", "gather", "broadcast", "update", "checkpoint"} <= names


def assert_same_bits(ours: Weights, theirs: Weights) -> None:
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_close(ours: Weights, theirs: Weights) -> None:
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=2e-6, msg=name)


# ---- the plain loop ------------------------------------------------------------------------------

Views = tuple[RenderedPrompt, RenderedPrompt]  # student's, teacher's
Responses = list[tuple[list[int], list[float]]]  # token ids and rollout log-probs
Respond = Callable[[Any, Renderer, RenderedPrompt, int], Responses]
Loss = Callable[[RunConfig, Renderer, Any, Any, list[tuple[Views, Responses]]], Tensor]


def plain_loop(config: RunConfig, respond: Respond, loss_of: Loss) -> tuple[Weights, Weights]:
    """Vision-OPD on one page: no broker, no server, no version, nothing at the same time."""
    from transformers import AutoModelForImageTextToText

    assert config.data.train is not None
    student = AutoModelForImageTextToText.from_pretrained(config.model.path, dtype=torch.float32)
    if loss_of is shared_prefix_loss:
        prepare_to_train(student, config.model, torch.device("cpu"))
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    student.train()
    adamw = torch.optim.AdamW(student.parameters(), eps=1e-3, weight_decay=0.01, fused=True)
    renderer = Renderer(config.model.path)
    images = ImageStore(config.data.train.parent)
    samples, _ = read_samples(config.data.train)
    for step in range(1, len(samples) // GROUPS + 1):
        engine = copy.deepcopy(student).eval().requires_grad_(False)
        groups = []
        for sample in samples[(step - 1) * GROUPS : step * GROUPS]:
            full = renderer.prompt(sample.problem, images.open(sample.image))
            crop = renderer.prompt(sample.problem, teacher_picture(sample, images, config.teacher))
            responses = respond(engine, renderer, full, sampling_seed(config, sample))
            groups.append(((full, crop), responses))
        loss = loss_of(config, renderer, student, teacher, groups)
        loss.backward()
        clip_gradients(student.parameters(), 1.0)
        adamw.param_groups[0]["lr"] = 1e-2 * min(step / 2, 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
    return student.state_dict(), teacher.state_dict()


def sampling_seed(config: RunConfig, sample: Sample) -> int:
    text = f"sampling/{config.run.seed}/0/{sample.sample_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


# ---- its parts, as the system computes them ------------------------------------------------------


def sample_group(engine: Any, renderer: Renderer, prompt: RenderedPrompt, seed: int) -> Responses:
    law = RequestLaw(
        max_new_tokens=TOKENS,
        stop_token_ids=frozenset({renderer.tokenizer.eos_token_id}),
        logit_bias=tuple((token, BAN) for token in renderer.vision_token_ids),
    )
    pixel_values = plain_pixel_values(renderer, prompt)
    arrays = (prompt.input_ids, prompt.mm_token_type_ids, pixel_values, prompt.image_grid_thw)
    model_inputs = Prompt(*map(torch.from_numpy, arrays))
    sequences = generate(engine, model_inputs, law, BRANCHES, seed)
    return [(sequence.token_ids, sequence.logprobs) for sequence in sequences]


def shared_prefix_loss(
    config: RunConfig,
    renderer: Renderer,
    student: Any,
    teacher: Any,
    groups: list[tuple[Views, Responses]],
) -> Tensor:
    def longest_first(side: int) -> list[int]:
        """The order in which the learner packs a step."""

        def length(number: int) -> int:
            views, responses = groups[number]
            return len(views[side].input_ids) + sum(len(ids) - 1 for ids, _ in responses)

        return sorted(range(len(groups)), key=length, reverse=True)

    def hidden_states(model: Any, side: int) -> dict[int, Tensor]:
        order = longest_first(side)
        prompts = [prompt_view(model, renderer, groups[n][0][side]) for n in order]
        responses = [[np.array(ids) for ids, _ in groups[n][1]] for n in order]
        hidden = response_hidden_states(model, pack(prompts, responses), torch.float32)
        sizes = [sum(map(len, branches)) for branches in responses]
        return dict(zip(order, hidden.split(sizes), strict=True))

    order = longest_first(0)
    ids = [[np.array(ids) for ids, _ in groups[n][1]] for n in order]

    lengths = torch.tensor([len(tokens) for branches in ids for tokens in branches])
    logprobs = [values for n in order for _, values in groups[n][1]]
    tokens = ResponseTokens(
        torch.from_numpy(np.concatenate([tokens for branches in ids for tokens in branches])),
        torch.from_numpy(np.concatenate(logprobs).astype(np.float32)),
        torch.repeat_interleave(1 / (lengths.float() * len(lengths)), lengths),
    )
    with torch.no_grad():
        of_teacher = hidden_states(teacher, 1)
    of_student = hidden_states(student, 0)
    law = LearnerLaw(1.0, torch.tensor(renderer.vision_token_ids))
    return objective(
        head_of(student, torch.cat([of_student[n] for n in order])),
        ((1.0, head_of(teacher, torch.cat([of_teacher[n] for n in order]))),),
        tokens,
        config.objective,
        law,
    ).loss


def prompt_view(model: Any, renderer: Renderer, prompt: RenderedPrompt) -> PromptView:
    ids, types, grid = map(
        torch.from_numpy, (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw)
    )
    return view_of(prompt, prompt_positions(model, ids, types, grid), renderer.patching)
