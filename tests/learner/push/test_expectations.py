"""The probe: log-probs of one fixed response, by whatever weights the student has now.

Holds learner/push/probe_pictures.py.
"""

import functools

import numpy as np
import pytest
import torch

from learner.model.student import prompt_positions
from learner.push.expectations import Expectations, ordinary_tokens
from learner.push.pushed_weights import PushedWeights
from tests.rollout.support import reference_logprobs


@pytest.fixture
def student(world):
    return world.trainer().model


def expectations(world, student, **sections) -> Expectations:
    positions = functools.partial(prompt_positions, student)
    return Expectations(world.changed(**sections), student, world.renderer, positions)


def test_its_log_probs_are_those_of_a_plain_forward_pass(world, student):
    checks = expectations(world, student)
    for _ in range(2):
        for probe in checks.probes():
            ids = probe.response_token_ids.tolist()
            expected = reference_logprobs(
                student, world.renderer, probe.image, ids, problem="<image>What is in the picture?"
            )
            np.testing.assert_allclose(probe.logprobs, expected, atol=1e-5)
        with torch.no_grad():
            for tensor in PushedWeights(student).values():
                tensor.mul_(1.1)


def test_the_response_stays_and_holds_ordinary_tokens_only(world, student):
    checks = expectations(world, student)
    first, _ = checks.probes()
    with torch.no_grad():
        next(iter(PushedWeights(student).values())).mul_(2)
    second, _ = checks.probes()
    assert np.array_equal(first.response_token_ids, second.response_token_ids)
    assert not np.allclose(first.logprobs, second.logprobs, atol=1e-4)
    size = len(world.renderer.tokenizer)
    allowed = ordinary_tokens(world.renderer, size)
    assert set(first.response_token_ids) <= set(allowed)
    assert size - 1 not in allowed
    assert not set(allowed) & set(world.renderer.vision_token_ids)


@pytest.mark.parametrize(
    ("sections", "tolerance"),
    [
        ({}, 0.002),
        ({"weights": {"dtype": "bfloat16"}}, 0.15),
        ({"model": {"dtype": "bfloat16"}}, 0.15),
        ({"weights": {"probe_tolerance": 0.5}}, 0.5),
    ],
)
def test_the_tolerance_is_as_coarse_as_the_coarsest_computation(
    world, student, sections, tolerance
):
    assert {p.tolerance for p in expectations(world, student, **sections).probes()} == {tolerance}


def test_pushes_are_verified_first_and_then_now_and_then(world, student):
    checks = expectations(world, student, weights={"verify_first": 2, "verify_every": 3})
    assert [push for push in range(12) if checks.is_due(push)] == [0, 1, 4, 7, 10]
    never = expectations(world, student, weights={"verify_first": 0, "verify_every": 0})
    assert not any(never.is_due(push) for push in range(99))


def test_servers_that_quantize_hold_other_tensors(world, student):
    checks = expectations(world, student, sglang={"quantization": "fp8"})
    assert checks.checksums(None) is None  # type: ignore[arg-type]
