"""The sampler against plain transformers, and its promises on seeds, branches and stops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.embedded.prompts import PromptBuilder
from rollout.embedded.requests import GenerateBody
from rollout.embedded.sampler import (
    DecodingBatch,
    Prompt,
    RequestLaw,
    _BatchLaw,
    generate,
    new_sequences,
    prompt_logprobs,
)
from tests.plain_pixels import plain_pixel_values
from tests.rollout.support import png, reference_logprobs
from tests.tiny_model import PROBLEM

SMALL, WIDE = png(64, 64), png(96, 48, seed=1)


@pytest.fixture(scope="module")
def builder(checkpoint, model):
    return PromptBuilder(str(checkpoint), model.config.image_token_id, 4096)


def prompt_of(builder, renderer, image):
    body = GenerateBody(
        input_ids=tuple(renderer.prompt_token_ids(PROBLEM).tolist()),
        text=None,
        images=(image,),
        law=RequestLaw(),
        n=1,
        seed=None,
        skip_special_tokens=True,
        return_logprob=True,
        rid=None,
    )
    return builder.build(body)


def law_without_vision_tokens(renderer, **fields):
    bans = tuple((token, -1e9) for token in renderer.vision_token_ids)
    return RequestLaw(**{"max_new_tokens": 12, "logit_bias": bans, **fields})


def test_prompt_is_what_the_shared_renderer_makes(builder, renderer):
    import io

    from PIL import Image

    for image in (SMALL, WIDE):
        prompt = prompt_of(builder, renderer, image)
        rendered = renderer.prompt(PROBLEM, Image.open(io.BytesIO(image)).convert("RGB"))
        assert prompt.input_ids.tolist() == rendered.input_ids.tolist()
        assert prompt.token_types.tolist() == rendered.mm_token_type_ids.tolist()
        assert np.array_equal(prompt.pixel_values.numpy(), plain_pixel_values(renderer, rendered))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("image", [SMALL, WIDE], ids=["square", "wide"])
def test_logprobs_equal_a_plain_forward_pass(model, builder, renderer, image, temperature):
    law = law_without_vision_tokens(renderer, temperature=temperature)
    sequences = generate(model, prompt_of(builder, renderer, image), law, n=3, seed=5)
    assert len({tuple(sequence.token_ids) for sequence in sequences}) == 3
    for sequence in sequences:
        expected = reference_logprobs(
            model, renderer, image, sequence.token_ids,
            temperature=temperature, banned=tuple(renderer.vision_token_ids),
        )  # fmt: skip
        np.testing.assert_allclose(sequence.logprobs, expected, atol=1e-5)
        assert not set(sequence.token_ids) & set(renderer.vision_token_ids)


@pytest.mark.parametrize("image", [SMALL, WIDE], ids=["square", "wide"])
def test_prompt_logprobs_equal_a_plain_forward_pass(model, builder, renderer, image):
    prompt = prompt_of(builder, renderer, image)
    scored = [8, 9, 14, 20]
    longer = Prompt(
        torch.cat([prompt.input_ids, torch.tensor(scored)]),
        torch.cat([prompt.token_types, torch.zeros(4, dtype=torch.int64)]),
        prompt.pixel_values,
        prompt.image_grid_thw,
    )
    expected = reference_logprobs(model, renderer, image, scored)
    start = len(prompt) - 1
    np.testing.assert_allclose(prompt_logprobs(model, longer, start), expected, atol=1e-5)
    assert len(prompt_logprobs(model, longer, 0)) == len(longer) - 1
    assert prompt_logprobs(model, longer, len(longer) - 1) == []
    assert prompt_logprobs(model, longer, len(longer)) == []


def test_batching_changes_neither_tokens_nor_logprobs(model, builder, renderer):
    """Two prompts of one length in a batch, one of them with other settings."""
    first = prompt_of(builder, renderer, SMALL)
    second = prompt_of(builder, renderer, png(64, 64, seed=9))
    law = law_without_vision_tokens(renderer)
    short = law_without_vision_tokens(renderer, max_new_tokens=3, temperature=0.5)
    rows = [new_sequences(first, law, 2, seed=1), new_sequences(second, short, 3, seed=2)]
    batch = DecodingBatch(model, rows)
    batch.start("7")
    while batch.is_running:
        batch.advance("7")
    alone = generate(model, first, law, 2, seed=1) + generate(model, second, short, 3, seed=2)
    for together, single in zip(rows[0] + rows[1], alone, strict=True):
        assert together.token_ids == single.token_ids
        np.testing.assert_allclose(together.logprobs, single.logprobs, atol=1e-5)
        assert set(together.versions) == {"7"}


def test_same_seed_gives_bit_equal_results_and_another_seed_others(model, builder, renderer):
    prompt = prompt_of(builder, renderer, WIDE)
    law = law_without_vision_tokens(renderer)
    runs = [generate(model, prompt, law, 4, seed) for seed in (3, 3, 4)]
    results = [[(s.token_ids, s.logprobs) for s in run] for run in runs]
    assert results[0] == results[1] != results[2]


def test_stop_token_ends_a_response_and_is_kept(model, builder, renderer):
    prompt = prompt_of(builder, renderer, SMALL)
    free = generate(model, prompt, law_without_vision_tokens(renderer), 1, seed=0)[0]
    stop = free.token_ids[4]
    law = law_without_vision_tokens(renderer, stop_token_ids=frozenset({stop}))
    cut = generate(model, prompt, law, 1, seed=0)[0]
    assert cut.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert cut.finish_reason == {"type": "stop", "matched": stop}
    assert free.finish_reason == {"type": "length", "length": 12}


def test_retracted_sequences_go_on_as_if_nothing_had_happened(model, builder, renderer):
    prompt = prompt_of(builder, renderer, SMALL)
    law = law_without_vision_tokens(renderer)
    whole = generate(model, prompt, law, 3, seed=8)
    parts = new_sequences(prompt, law, 3, seed=8)
    batch = DecodingBatch(model, [parts])
    batch.start("0")
    for _ in range(4):
        batch.advance("0")
    batch = DecodingBatch(model, [parts])  # the cache of the first batch is gone
    batch.start("1")
    while batch.is_running:
        batch.advance("1")
    for cut, uncut in zip(parts, whole, strict=True):
        assert cut.token_ids == uncut.token_ids
        np.testing.assert_allclose(cut.logprobs, uncut.logprobs, atol=1e-5)
        assert cut.versions == ["0"] * 5 + ["1"] * 7


def test_greedy_takes_the_likeliest_token(model, builder, renderer):
    law = law_without_vision_tokens(renderer, temperature=0.0, max_new_tokens=5)
    prompt = prompt_of(builder, renderer, SMALL)
    a, b = generate(model, prompt, law, 2, seed=None)
    assert a.token_ids == b.token_ids
    expected = reference_logprobs(
        model, renderer, SMALL, a.token_ids, banned=tuple(renderer.vision_token_ids)
    )
    np.testing.assert_allclose(a.logprobs, expected, atol=1e-5)


def test_draws_follow_the_reported_law():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(40000, 1)
    law = _BatchLaw.of([RequestLaw(temperature=2.0)] * 40000, 4)
    draws = torch.rand(40000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = law.draw(logits, draws)
    expected = torch.softmax(logits[0] / 2, dim=-1)
    shares = torch.bincount(tokens, minlength=4) / 40000
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(logprobs.exp(), expected[tokens])


@settings(max_examples=60)
@given(
    scores=st.lists(st.floats(-20, 20), min_size=2, max_size=12),
    draw=st.floats(0, 1, exclude_max=True),
    top_k=st.integers(1, 12),
    top_p=st.floats(0.01, 1.0),
)
def test_truncation_keeps_to_the_likeliest_tokens(scores, draw, top_k, top_p):
    law = RequestLaw(top_k=max(top_k, 2), top_p=top_p)
    logits = torch.tensor([scores])
    tokens, _ = _BatchLaw.of([law], len(scores)).draw(logits, torch.tensor([draw]).double())
    probs = torch.softmax(logits[0], dim=-1)
    likelier = probs[probs > probs[tokens[0]]]
    assert len(likelier) < law.top_k
    assert likelier.sum() < top_p + 1e-5


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_a_banned_token_is_never_drawn(draw):
    bans = tuple((token, -1e9) for token in (0, 2, 3))
    law = _BatchLaw.of([RequestLaw(logit_bias=bans)], 4)
    tokens, logprobs = law.draw(torch.zeros(1, 4), torch.tensor([draw], dtype=torch.float64))
    assert tokens.tolist() == [1]
    assert logprobs.tolist() == [0.0]


def test_the_likeliest_tokens_are_reported_beside_each(model, builder, renderer):
    """The first of them all is the greedy one; each law gets as many as it asks for."""
    law = law_without_vision_tokens(renderer, temperature=0.0, max_new_tokens=4)
    prompt = prompt_of(builder, renderer, SMALL)
    laws = [replace(law, top_logprobs=count) for count in (0, 2, 5)]
    rows = [new_sequences(prompt, each, 1, seed=None) for each in laws]
    batch = DecodingBatch(model, rows)
    batch.start("0")
    while batch.is_running:
        batch.advance("0")
    none, two, five = (row[0] for row in rows)
    assert none.likeliest == []
    assert [len(each) for each in two.likeliest] == [2] * 4
    assert [len(each) for each in five.likeliest] == [5] * 4
    for token, logprob, others in zip(five.token_ids, five.logprobs, five.likeliest, strict=True):
        assert others[0].token == token
        assert others[0].logprob == pytest.approx(logprob, abs=1e-6)
        values = [each.logprob for each in others]
        assert values == sorted(values, reverse=True)
    first = five.likeliest[0]
    for token, logprob in first:
        (expected,) = reference_logprobs(
            model, renderer, SMALL, [token], banned=tuple(renderer.vision_token_ids)
        )
        assert logprob == pytest.approx(expected, abs=2e-5)
