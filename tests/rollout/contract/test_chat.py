"""POST /v1/chat/completions and /v1/models: OpenAI's API as a client meets it.

What is said is held to /generate of the same server and to transformers, which are the same for
both engines; so both say the same.
"""

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.rollout.support import data_url, png, reference_logprobs
from tests.waiting import until

FAMILIES = ("quickstart",)
IMAGE, OTHER = png(96, 64), png(131, 197, seed=4)  # the second one is resized
QUESTION = "Which digit is on the red tag?"
CHAT = "/v1/chat/completions"


def user(*parts: bytes | str) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]
    return {"role": "user", "content": content}


def question(image: bytes = IMAGE, **options) -> dict[str, Any]:
    greedy = {"temperature": 0, "max_tokens": 12}
    return {"model": "m", "messages": [user(image, QUESTION)], **greedy, **options}


async def events(api, body) -> list[dict[str, Any]]:
    """The events of a stream, without its last word."""
    async with api.session.post(api.url + CHAT, json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        lines = [line.decode().strip() async for line in response.content]
    words = [line.removeprefix("data: ") for line in lines if line]
    assert words[-1] == "[DONE]" and "[DONE]" not in words[:-1]
    return [json.loads(word) for word in words[:-1]]


@pytest.mark.parametrize("image", [IMAGE, OTHER], ids=["as it is", "resized"])
async def test_chat_says_what_generate_says_to_the_prompt_of_training(api, renderer, image):
    answer = await api.ok(CHAT, question(image, return_token_ids=True))
    text = renderer.text(f"<image>{QUESTION}")
    sampling = {"temperature": 0, "max_new_tokens": 12}
    same = await api.ok(
        "/generate", {"text": text, "image_data": data_url(image), "sampling_params": sampling}
    )
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == same["text"]
    assert choice["response_token_ids"] == same["output_ids"]
    assert answer["usage"]["prompt_tokens"] == same["meta_info"]["prompt_tokens"]
    assert choice["message"]["content"].startswith("The red tag shows ")


async def test_an_answer_has_the_fields_of_openais(api):
    answer = await api.ok(CHAT, question())
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "m"  # as it was asked for
    assert answer["id"] and answer["created"] > 1.7e9
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant", "content": choice["message"]["content"],
            "reasoning_content": None,
        },
        "logprobs": None,
        "finish_reason": "stop",
        "matched_stop": 2,
    }  # fmt: skip
    assert answer["usage"] == {
        "prompt_tokens": 46, "completion_tokens": 7, "total_tokens": 53,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 24},
        "reasoning_tokens": 0, "completion_tokens_details": None,
    }  # fmt: skip
    spans = [{"version": "default", "start": 0, "end": 7}]
    assert answer["metadata"] == {"weight_version": "default", "weight_versions": spans}


async def test_the_prompts_token_ids_are_the_expanded_prompt(api, renderer):
    answer = await api.ok(CHAT, question(return_token_ids=True))
    prompt = renderer.prompt(f"<image>{QUESTION}", Image.open(io.BytesIO(IMAGE)).convert("RGB"))
    assert answer["choices"][0]["prompt_token_ids"] == prompt.input_ids.tolist()


@pytest.mark.parametrize("temperature", [0, 0.7])
async def test_logprobs_are_those_of_transformers(api, model, renderer, temperature):
    body = question(temperature=temperature, logprobs=True, return_token_ids=True, seed=1)
    (choice,) = (await api.ok(CHAT, body))["choices"]
    expected = reference_logprobs(
        model, renderer, IMAGE, choice["response_token_ids"],
        temperature=temperature or 1.0, problem=f"<image>{QUESTION}",
    )  # fmt: skip
    entries = choice["logprobs"]["content"]
    np.testing.assert_allclose([entry["logprob"] for entry in entries], expected, atol=1e-4)
    texts = [renderer.tokenizer.decode([token]) for token in choice["response_token_ids"]]
    assert [entry["token"] for entry in entries] == texts
    assert [bytes(entry["bytes"]).decode() for entry in entries] == texts
    assert all(entry["top_logprobs"] == [] for entry in entries)


async def test_top_logprobs_are_the_likeliest_tokens(api):
    body = question(logprobs=True, top_logprobs=3)
    (choice,) = (await api.ok(CHAT, body))["choices"]
    for entry in choice["logprobs"]["content"]:
        top = entry["top_logprobs"]
        assert [each["logprob"] for each in top] == sorted(
            (each["logprob"] for each in top), reverse=True
        )
        assert len({each["token"] for each in top}) == 3
        assert top[0]["token"] == entry["token"]  # greedy
        assert top[0]["logprob"] == pytest.approx(entry["logprob"], abs=1e-5)
    digit = choice["logprobs"]["content"][4]["top_logprobs"]
    assert [each["token"] for each in digit][:2] == [" 7", " 4"]
    assert digit[1]["logprob"] == pytest.approx(-3.1528, abs=1e-3)


async def test_several_responses_are_several_choices(api):
    answer = await api.ok(CHAT, question(n=3, temperature=1.5, top_p=0.9, ignore_eos=True))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
    assert answer["usage"]["prompt_tokens"] == 46
    assert answer["usage"]["completion_tokens"] == 36


async def test_an_answer_that_is_cut_says_so(api):
    for limit in ({"max_tokens": 2}, {"max_tokens": 9, "max_completion_tokens": 2}):
        (choice,) = (await api.ok(CHAT, question(**limit)))["choices"]
        assert (choice["finish_reason"], choice["matched_stop"]) == ("length", None)
        assert choice["message"]["content"] == "The red"


async def test_without_a_limit_an_answer_goes_on_until_its_end(api):
    body = {key: value for key, value in question().items() if key != "max_tokens"}
    (choice,) = (await api.ok(CHAT, body))["choices"]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [" shows", ["nowhere", "ag sh"]])
async def test_a_stop_string_ends_the_answer_and_is_not_in_it(api, stop):
    matched = stop if isinstance(stop, str) else stop[1]
    expected = "The red tag shows 7.".partition(matched)[0]
    answer = await api.ok(CHAT, question(stop=stop))
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == expected
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", matched)
    assert answer["usage"]["completion_tokens"] == 4  # the token that holds its end counts
    parts = await events(api, question(stop=stop))
    text = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    assert text == expected
    assert parts[-1]["choices"][0]["matched_stop"] == matched


async def test_a_streams_parts_make_the_answer(api):
    body = question(n=2, logprobs=True, top_logprobs=1)
    whole = await api.ok(CHAT, body)
    parts = await events(api, {**body, "stream_options": {"include_usage": True}})
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert {part["model"] for part in parts} == {"m"}
    *said, last = parts
    # SGLang may have found the prompt in its cache the second time.
    last["usage"]["prompt_tokens_details"] = whole["usage"]["prompt_tokens_details"]
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert not any("usage" in part for part in said)
    for choice in whole["choices"]:
        mine = [p["choices"][0] for p in said if p["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "reasoning_content": None}
        texts = [each["delta"].get("content") or "" for each in mine]
        assert "".join(texts) == choice["message"]["content"]
        assert [each["finish_reason"] for each in mine] == [*[None] * (len(mine) - 1), "stop"]
        assert mine[-1]["matched_stop"] == 2
        entries = [e for each in mine if each["logprobs"] for e in each["logprobs"]["content"]]
        expected = choice["logprobs"]["content"]
        # SGLang leaves out those of tokens without text.
        assert len(expected) - len(entries) in (0, 1)
        for entry, other in zip(entries, expected, strict=False):
            assert entry["token"] == other["token"]
            assert entry["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
            assert len(entry["top_logprobs"]) == 1


async def test_a_stream_without_the_option_has_no_usage(api):
    parts = await events(api, question())
    assert not any("usage" in part for part in parts)
    assert all(len(part["choices"]) == 1 for part in parts)


async def test_a_client_that_goes_away_ends_its_stream(api, served):
    body = question(max_tokens=3500, ignore_eos=True, stream=True)
    async with api.session.post(api.url + CHAT, json=body) as response:
        while '"content":"The' not in (await response.content.readline()).decode().replace(" ", ""):
            assert not response.content.at_eof()
        assert (await api.post("/flush_cache"))[0] == 400  # the answer begins before its end
        response.close()

    async def is_idle() -> bool:
        return (await api.post("/flush_cache"))[0] == 200

    await until(is_idle)


async def test_words_without_a_picture_and_earlier_turns_are_taken(api, renderer):
    messages = [
        {"role": "system", "content": " red tag"},
        user("Which digit is on the red tag?"),
        {"role": "assistant", "content": [{"type": "text", "text": "The red tag shows 7."}]},
        user(IMAGE, "Which digit", " is"),
    ]
    answer = await api.ok(CHAT, question(messages=messages, return_token_ids=True))
    ids = answer["choices"][0]["prompt_token_ids"]
    text = renderer.tokenizer.decode([token for token in ids if token != renderer.image_token_id])
    assert text == (
        "<|im_start|>system\n red tag<|im_end|>\n"
        "<|im_start|>user\nWhich digit is on the red tag?<|im_end|>\n"
        "<|im_start|>assistant\nThe red tag shows 7.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|vision_end|>Which digit is<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": "which"},
        {"messages": [{"role": "nobody", "content": "which"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "sculpture"}]}]},
        {"messages": [user(b"no picture", "which")]},
        {"messages": [user("which " * 9000)]},
        {"n": 0},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": 0},
        {"min_p": 3},
        {"max_tokens": -1},
        {"max_tokens": 10**6},
        {"seed": "seven"},
        {"logit_bias": {"100000": 1.0}},
        {"stream": True, "temperature": -1},
        {"stream": True, "max_tokens": 10**6},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
    ],
)
async def test_a_bad_request_is_a_400_with_a_message(api, fields):
    status, content = await api.post(CHAT, question(**{"temperature": 1, **fields}))
    assert status == 400, content
    error = content.get("error", content)  # SGLang's stands alone; OpenAI's client reads both
    assert error["message"] and error["code"] == 400
    await api.ok(CHAT, question(max_tokens=1))


@pytest.mark.parametrize("url", ["/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/a",
                                 "data:image/png;base64,***"])  # fmt: skip
async def test_nothing_but_the_request_is_read_for_a_picture(api, url):
    part = {"type": "image_url", "image_url": {"url": url}}
    status, content = await api.post(CHAT, question(messages=[{"role": "user", "content": [part]}]))
    assert status == 400 and "No such file" not in str(content), content


async def test_web_pages_are_turned_away(api):
    headers = {"Origin": "http://elsewhere.example"}
    for method, path in (("POST", CHAT), ("GET", "/v1/models")):
        assert await api.status(method, path, headers) == 403


async def test_the_models_are_the_one_that_is_served(api, checkpoint):
    status, content = await api.get("/v1/models")
    (card,) = content["data"]
    assert status == 200 and content["object"] == "list"
    assert card["id"] == card["root"] == str(checkpoint)
    assert card["object"] == "model" and card["max_model_len"] == 4096
    assert (await api.get("/v1/models/elsewhere"))[0] == 404


async def test_many_chats_at_once_each_get_their_own_answer(api):
    images = [png(96, 64, seed=seed) for seed in range(12)]
    one_by_one = [await api.ok(CHAT, question(image)) for image in images]
    at_once = await asyncio.gather(*(api.ok(CHAT, question(image)) for image in images))
    texts = [
        [answer["choices"][0]["message"]["content"] for answer in answers]
        for answers in (one_by_one, at_once)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
