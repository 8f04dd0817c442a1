"""What depends on the model: numbers, every weight's name, caches. For all families.

Holds rollout/sglang/cpu/sgl_kernel/mamba.py, rollout/sglang/cpu/sitecustomize.py.
"""

import asyncio

import numpy as np
import pytest

from common.families import family_named
from common.served_names import checksum, padding_rows, served_tensors
from tests.rollout.contract.pushing import checksums, pushed
from tests.rollout.support import data_url, png, reference_logprobs
from tests.tiny_model import FAMILIES as FAMILIES  # read by conftest.py
from tests.tiny_model import PATCH_SIZES, PROBLEM


@pytest.fixture
def images(served) -> dict[str, bytes]:
    """Pictures of sizes that the processor need not change."""
    unit = 2 * PATCH_SIZES[served.family]
    return {"square": png(4 * unit, 4 * unit), "wide": png(6 * unit, 3 * unit, seed=5)}


@pytest.fixture
def atol(served) -> float:
    """Qwen3.5's recurrent states are accumulated in another order."""
    return 5e-4 if served.family == "qwen3_5" else 5e-5


@pytest.fixture
def ask(api, renderer, images):
    ids = renderer.prompt_token_ids(PROBLEM).tolist()

    def send(image="square", *, fields=None, **params):
        body = {"input_ids": ids, "image_data": [data_url(images[image])], **(fields or {})}
        return api.generate(body, banned=renderer.vision_token_ids, ignore_eos=True, **params)

    return send


@pytest.fixture
def check(renderer, images, atol):
    """Hold an answer's log-probs, or a part of them, to a model's."""

    def compare(answer, model, image="square", *, temperature=1.0, start=0, end=None) -> None:
        expected = reference_logprobs(
            model, renderer, images[image], answer["output_ids"],
            temperature=temperature, banned=tuple(renderer.vision_token_ids),
        )  # fmt: skip
        found = np.array([pair[0] for pair in answer["meta_info"]["output_token_logprobs"]])
        np.testing.assert_allclose(found[start:end], expected[start:end], atol=atol)

    return compare


def tensor_bytes(tensor) -> memoryview:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def expected_checksums(model) -> dict[str, str]:
    state = model.state_dict()
    family = family_named(model.config.model_type)
    served = served_tensors(state, family, has_tied_head=model.config.tie_word_embeddings)
    return {
        name: checksum([
            *(tensor_bytes(state[part]) for part in parts),
            bytes(padding_rows(name, len(state[parts[0]])) * state[parts[0]][0].nbytes),
        ])
        for name, parts in served.items()
    }  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("image", ["square", "wide"])
async def test_image_logprobs_equal_transformers(ask, check, model, image, temperature):
    for answer in await ask(image, n=3, temperature=temperature, max_new_tokens=12):
        check(answer, model, image, temperature=temperature)


@pytest.mark.parametrize("buckets", [1, 3])
async def test_push_replaces_every_weight(api, ask, check, model, other_model, buckets):
    check(await ask(), model)
    await pushed(api, other_model.state_dict(), version=str(buckets), buckets=buckets)
    after = await ask()
    check(after, other_model)
    assert after["meta_info"]["weight_version"] == str(buckets)


async def test_checksums_are_those_of_the_named_tensors(api, model, other_model):
    before = expected_checksums(model)
    found = await checksums(api)
    assert {name: found.get(name) for name in before} == before
    await pushed(api, other_model.state_dict(), version="1")
    await api.ok("/pause_generation", {"mode": "retract"})
    after, found = expected_checksums(other_model), await checksums(api)
    assert {name: found.get(name) for name in after} == after
    assert sum(before[name] != after[name] for name in after) > len(after) / 4


async def test_retract_goes_on_with_the_new_weights(api, ask, check, served, model, other_model):
    await ask(max_new_tokens=1)
    many = served.many_tokens
    running = [asyncio.ensure_future(ask(max_new_tokens=many)) for _ in range(2)]
    await api.until_running()
    await asyncio.sleep(0.5)  # for some tokens
    await pushed(api, other_model.state_dict(), version="6")
    for answer in await asyncio.gather(*running):
        old, new = answer["meta_info"]["weight_versions"]
        assert (old["version"], new["version"], new["end"]) == ("default", "6", many)
        check(answer, model, end=old["end"])
        check(answer, other_model, start=new["start"])


async def test_after_a_flush_nothing_comes_from_old_caches(api, ask, check, served, other_model):
    await ask()
    again = await ask()
    if served.is_sglang and served.family != "qwen3_5":
        assert again["meta_info"]["cached_tokens"] > 0
    await pushed(api, other_model.state_dict(), version="8")
    after = await ask()
    assert after["meta_info"]["cached_tokens"] == 0
    check(after, other_model)


async def test_extra_key_divides_the_prefix_cache(ask, check, served, model):
    first = await ask(fields={"extra_key": "one"})
    same = await ask(fields={"extra_key": "one"})
    other = await ask(fields={"extra_key": "two"})
    assert first["meta_info"]["cached_tokens"] == other["meta_info"]["cached_tokens"] == 0
    if served.is_sglang and served.family != "qwen3_5":
        assert same["meta_info"]["cached_tokens"] > 0
    for answer in (first, same, other):
        check(answer, model)


async def test_a_given_response_is_scored(api, model, renderer, images, atol):
    """Scores are of the unchanged logits at temperature 1, whatever the request samples with."""
    prompt_ids = renderer.prompt_token_ids(PROBLEM).tolist()
    response = [8, 9, 10, 14, 20]
    body = {
        "input_ids": [*prompt_ids, *response], "image_data": [data_url(images["square"])],
        "logprob_start_len": len(prompt_ids) - 1,
    }  # fmt: skip
    answer = await api.generate(body, max_new_tokens=1, temperature=0.5, banned=[response[0]])
    pairs = answer["meta_info"]["input_token_logprobs"]
    assert [pair[1] for pair in pairs[-len(response) :]] == response
    expected = reference_logprobs(model, renderer, images["square"], response)
    np.testing.assert_allclose([p[0] for p in pairs[-len(response) :]], expected, atol=atol)
