"""POST /generate and the questions about the server.

Holds rollout/embedded/bodies.py, rollout/embedded/running.py, rollout/embedded/server.py.
"""

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image

from rollout.http_engine import latencies_of
from tests.rollout.support import data_url, png, reference_logprobs
from tests.tiny_model import PROBLEM
from tests.waiting import LIMIT_S

IMAGE, OTHER, WIDE = png(64, 64), png(64, 64, seed=4), png(96, 48, seed=5)


def bans(renderer) -> dict[str, float]:
    return {str(token): -1e9 for token in renderer.vision_token_ids}


@pytest.fixture
def prompt_ids(renderer) -> list[int]:
    return renderer.prompt_token_ids(PROBLEM).tolist()


async def test_one_response_is_an_object_and_several_are_a_list(api, renderer):
    ids = renderer.tokenizer("which digit")["input_ids"]
    one = await api.generate({"input_ids": ids}, ignore_eos=True)
    assert len(one["output_ids"]) == 8
    assert one["meta_info"]["prompt_tokens"] == len(ids)
    assert one["meta_info"]["completion_tokens"] == 8
    assert one["meta_info"]["finish_reason"] == {"type": "length", "length": 8}
    assert one["meta_info"]["weight_version"] == "default"
    spans = one["meta_info"]["weight_versions"]
    assert spans == [{"version": "default", "start": 0, "end": 8}]
    assert [entry[1] for entry in one["meta_info"]["output_token_logprobs"]] == one["output_ids"]
    assert all(len(entry) == 3 for entry in one["meta_info"]["output_token_logprobs"])
    several = await api.generate({"text": "which digit"}, n=3, ignore_eos=True)
    assert len(several) == 3
    assert len({tuple(result["output_ids"]) for result in several}) == 3
    assert len({result["meta_info"]["id"] for result in several}) == 3


async def test_an_answer_tells_when_its_first_token_came(api):
    told = latencies_of(await api.generate({"text": "which digit"}, n=2, ignore_eos=True))
    assert told.queue_s is not None and told.first_token_s is not None and len(told.response_s) == 2
    assert 0 <= told.queue_s <= told.first_token_s <= min(told.response_s)


async def test_logprobs_come_only_when_asked_for(api):
    answer = await api.generate({"input_ids": [1, 7], "return_logprob": False})
    assert "output_token_logprobs" not in answer["meta_info"]


@pytest.mark.parametrize("image", [IMAGE, WIDE], ids=["square", "wide"])
async def test_image_logprobs_equal_transformers(api, model, renderer, prompt_ids, image):
    results = await api.generate(
        {"input_ids": prompt_ids, "image_data": [data_url(image)]},
        n=3, temperature=0.8, logit_bias=bans(renderer),
    )  # fmt: skip
    for result in results:
        pairs = result["meta_info"]["output_token_logprobs"]
        expected = reference_logprobs(
            model, renderer, image, result["output_ids"],
            temperature=0.8, banned=tuple(renderer.vision_token_ids),
        )  # fmt: skip
        np.testing.assert_allclose([pair[0] for pair in pairs], expected, atol=2e-5)
        assert not set(result["output_ids"]) & set(renderer.vision_token_ids)


async def test_an_image_is_a_data_url_alone_or_in_a_list(api, renderer, prompt_ids):
    answers = [
        await api.generate(
            {"input_ids": prompt_ids, "image_data": form}, temperature=0, logit_bias=bans(renderer)
        )
        for form in (data_url(IMAGE), [data_url(IMAGE)], [data_url(OTHER)])
    ]
    logprobs = [[p[0] for p in a["meta_info"]["output_token_logprobs"]] for a in answers]
    assert np.allclose(logprobs[0], logprobs[1], atol=1e-5)
    assert not np.allclose(logprobs[0][0], logprobs[2][0], atol=1e-4)


async def test_nothing_but_the_request_is_read_for_an_image(api, prompt_ids, tmp_path):
    """No path, no URL, and no bare base64: that of a JPEG begins as a path does."""
    path = tmp_path / "scene.png"
    path.write_bytes(IMAGE)
    here = f"{api.url}/scene.png"
    bare = base64.b64encode(IMAGE).decode()
    for form in (str(path), f"file://{path}", "scene.png", here, bare, {"url": str(path)}):
        for image in (form, [form]):
            status, content = await api.post(
                "/generate", {"input_ids": prompt_ids, "image_data": image, "sampling_params": {}}
            )
            assert status in (400, 422) and "data" in str(content), (form, content)
            assert "No such file" not in str(content)
    await api.generate({"input_ids": prompt_ids, "image_data": data_url(IMAGE)})


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "EPS", "too large"])
async def test_pictures_of_other_formats_and_sizes_are_refused(api, prompt_ids, kind):
    content = io.BytesIO()
    if kind == "too large":
        Image.new("1", (8001, 10000)).save(content, "PNG")
    else:
        Image.new("RGB", (64, 64)).save(content, kind)
    status, answer = await api.post(
        "/generate", {"input_ids": prompt_ids, "image_data": data_url(content.getvalue())}
    )
    assert status == 400, answer
    assert ("pixels, more than" in str(answer)) is (kind == "too large")
    await api.generate({"input_ids": prompt_ids, "image_data": data_url(IMAGE)})


async def test_other_hosts_and_web_pages_are_turned_away(api):
    for headers in ({"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"},
                    {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):  # fmt: skip
        for method, path in (("GET", "/health"), ("POST", "/pause_generation"), ("OPTIONS", "/")):
            assert await api.status(method, path, headers) == 403, (headers, path)
    assert await api.status("GET", "/ready", {"Host": "localhost"}) == 200


async def test_prompt_tokens_count_the_expanded_prompt(api, renderer, prompt_ids):
    counts = []
    for image in (IMAGE, WIDE):
        body = {"input_ids": prompt_ids, "image_data": [data_url(image)]}
        answer = await api.generate(body, max_new_tokens=1)
        counts.append(answer["meta_info"]["prompt_tokens"])
    assert counts == [len(prompt_ids) - 1 + tokens for tokens in (16, 18)]


async def test_stop_token_ends_the_response_and_stays_in_it(api):
    body = {"input_ids": [1, 7, 8]}
    free = await api.generate(body, temperature=0, ignore_eos=True)
    stop = free["output_ids"][-1]
    cut = await api.generate(body, temperature=0, stop_token_ids=[stop])
    end = free["output_ids"].index(stop) + 1
    assert cut["output_ids"] == free["output_ids"][:end]
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    ignoring = await api.generate(body, temperature=0, stop_token_ids=[stop], ignore_eos=True)
    assert ignoring["output_ids"] == free["output_ids"]


async def test_banned_tokens_are_never_sampled(api, renderer):
    allowed = 9
    everything_else = {str(t): -1e9 for t in range(len(renderer.tokenizer)) if t != allowed}
    answer = await api.generate({"input_ids": [1, 7]}, logit_bias=everything_else)
    assert answer["output_ids"] == [allowed] * 8
    assert all(abs(p[0]) < 1e-6 for p in answer["meta_info"]["output_token_logprobs"])


@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({}, {}),
        ({"input_ids": [1]}, {"temperature": -1}),
        ({"input_ids": [1]}, {"top_p": 0}),
        ({"input_ids": [1]}, {"top_k": 0}),
        ({"input_ids": [1]}, {"max_new_tokens": -1}),
        ({"input_ids": [1]}, {"logit_bias": {"100000": -1.0}}),
        ({"input_ids": [1]}, {"min_p": 2}),
        ({"input_ids": [1]}, {"temperature": "hot"}),
        ({"input_ids": [1]}, {"sampling_seed": "seven"}),
        ({"input_ids": [1]}, {"no_such_parameter": 1}),
        ({"input_ids": []}, {}),
        ({"input_ids": "which"}, {}),
        ({"input_ids": [1], "rid": 5}, {}),
        ({"input_ids": [1], "extra_key": 5}, {}),
        ({"input_ids": [1], "return_logprob": True, "logprob_start_len": 2}, {}),
        ({"input_ids": [1] * 9000}, {"max_new_tokens": 1}),
        ({"input_ids": [1] * 8000}, {"max_new_tokens": 300}),
    ],
)
async def test_a_bad_request_is_a_400_and_the_server_lives_on(api, body, params):
    status, content = await api.post("/generate", {**body, "sampling_params": params})
    assert status == 400, content
    await api.generate({"input_ids": [1, 7]})


async def test_broken_images_are_refused_and_the_server_lives_on(api, prompt_ids):
    no_base64 = "data:image/png;base64,***"
    for images in ([data_url(b"not a picture")], [no_base64], [data_url(IMAGE[:200])]):
        status, content = await api.post(
            "/generate", {"input_ids": prompt_ids, "image_data": images, "sampling_params": {}}
        )
        assert status == 400, content
    await api.generate({"input_ids": [1, 7]})


async def test_expanded_placeholders_are_refused_and_the_server_lives_on(api, renderer, prompt_ids):
    pad = renderer.image_token_id
    expanded = [t for token in prompt_ids for t in ([pad] * 16 if token == pad else [token])]
    status, _ = await api.post(
        "/generate", {"input_ids": expanded, "image_data": [data_url(IMAGE)]}
    )
    assert status >= 400
    await api.generate({"input_ids": [1, 7]})


@pytest.mark.parametrize("start", [0, 2, 4, 5, -1])
async def test_scores_of_a_prompt(api, model, start):
    """[log-prob, id, null] a position from the first one on, which itself has no score."""
    ids = [8, 9, 10, 11, 12]
    answer = await api.generate({"input_ids": ids, "logprob_start_len": start}, max_new_tokens=1)
    scores = answer["meta_info"]["input_token_logprobs"]
    if start in (5, -1):
        assert scores == []
        return
    assert [entry[1:] for entry in scores] == [[token, None] for token in ids[start:]]
    assert scores[0][0] is None
    expected = reference_logprobs(model, None, None, ids[start + 1 :], input_ids=ids[: start + 1])
    np.testing.assert_allclose([entry[0] for entry in scores[1:]], expected, atol=2e-5)


async def test_scores_cover_the_expanded_prompt(api, prompt_ids):
    body = {"input_ids": prompt_ids, "image_data": [data_url(IMAGE)], "logprob_start_len": 0}
    for answer in await api.generate(body, n=2, max_new_tokens=1):
        scores = answer["meta_info"]["input_token_logprobs"]
        assert len(scores) == answer["meta_info"]["prompt_tokens"] == len(prompt_ids) + 15


async def test_a_batch_of_one_is_answered_with_a_list(api):
    answer = await api.generate({"input_ids": [[1, 7]]}, ignore_eos=True)
    assert [len(each["output_ids"]) for each in answer] == [8]


async def test_a_seed_repeats_a_response(api, served, prompt_ids, renderer):
    """SGLang takes the field, but heeds it with --enable-deterministic-inference alone."""
    body = {"input_ids": prompt_ids, "image_data": [data_url(IMAGE)]}
    runs = [
        await api.generate(body, banned=renderer.vision_token_ids, sampling_seed=seed)
        for seed in (3, 3, 4)
    ]
    found = [run["output_ids"] for run in runs]
    if not served.is_sglang:
        assert found[0] == found[1] != found[2]


async def test_questions_about_the_server(api, checkpoint):
    assert (await api.get("/health"))[0] == 200
    assert (await api.get("/health_generate"))[0] == 200
    status, info = await api.get("/model_info")
    assert status == 200
    assert info["model_path"] == str(checkpoint)
    assert info["weight_version"] == "default"
    status, info = await api.get("/server_info")
    assert status == 200
    assert "version" in info
    assert info["device"] == "cpu"
    assert info["tp_size"] == 1
    assert info["max_running_requests"] >= 1
    assert (await api.get("/ready"))[0] == 200


async def test_an_abort_that_means_nothing_is_no_error(api):
    assert (await api.post("/abort_request", {}))[0] == 200
    assert (await api.post("/abort_request", {"rid": "unheard-of"}))[0] == 200


async def test_bodies_that_are_no_objects_are_refused(api):
    for body in (["input_ids"], "text", 5):
        assert (await api.post("/generate", body))[0] == 400
    assert (await api.post("/pause_generation", {"mode": "no_such_mode"}))[0] == 400


async def test_abort_returns_what_there_is(api):
    long = {"input_ids": [1, 7], "rid": "abc"}
    running = asyncio.ensure_future(api.generate(long, max_new_tokens=4000, ignore_eos=True))
    await api.until_running()
    await api.ok("/abort_request", {"rid": "another"})
    await asyncio.sleep(0.1)  # for some tokens, or for an answer that must not come
    assert not running.done()
    await api.ok("/abort_request", {"rid": "abc"})
    async with asyncio.timeout(LIMIT_S):
        answer = await running
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert 0 < len(answer["output_ids"]) < 4000
    assert len(answer["meta_info"]["output_token_logprobs"]) == len(answer["output_ids"])
    assert (await api.post("/flush_cache"))[0] == 200


async def test_many_requests_at_once_each_get_their_own_answer(api, model, renderer, prompt_ids):
    images = [png(64, 64, seed=s) if s % 2 else png(96, 48, seed=s) for s in range(12)]
    answers = await asyncio.gather(
        *(
            api.generate(
                {"input_ids": prompt_ids, "image_data": [data_url(image)]},
                n=2, logit_bias=bans(renderer), max_new_tokens=3 + number % 4,
            )
            for number, image in enumerate(images)
        )
    )  # fmt: skip
    for image, results in zip(images, answers, strict=True):
        for result in results:
            expected = reference_logprobs(
                model, renderer, image, result["output_ids"],
                banned=tuple(renderer.vision_token_ids),
            )  # fmt: skip
            pairs = result["meta_info"]["output_token_logprobs"]
            np.testing.assert_allclose([pair[0] for pair in pairs], expected, atol=2e-5)
