"""The client: bodies, parsing, and errors that say what went wrong.

Holds rollout/server_errors.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from common.errors import EngineError
from common.types import FinishReason, WeightBucket
from rollout.engine import EngineGone, GroupRequest, Latencies, RequestFailed, RequestRejected
from rollout.http_engine import HttpEngine, generate_body, latencies_of, parse_group
from tests.rollout.support import png
from tests.tiny_model import PROBLEM


def request(**fields) -> GroupRequest:
    defaults = {
        "prompt_token_ids": np.array([1, 2, 3], dtype=np.int32),
        "images": (b"a",),
        "num_trajectories": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_response_tokens": 4,
        "banned_token_ids": (5, 6),
        "end_token_ids": (2, 0),
        "seed": None,
    }
    return GroupRequest(**{**defaults, **fields})


def url(encoded: str) -> str:
    return f"data:image/png;base64,{encoded}"


def response(index: int = 0, *, finish: str = "stop", **meta) -> dict:
    return {
        "text": "",
        "output_ids": [7, 8],
        "meta_info": {
            "finish_reason": {"type": finish},
            "prompt_tokens": 20 + index,
            "output_token_logprobs": [[-0.5, 7, None], [-1.5, 8, None]],
            "weight_version": "3",
            "weight_versions": [
                {"version": "2", "start": 0, "end": 1},
                {"version": "3", "start": 1, "end": 2},
            ],
            **meta,
        },
    }


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def client(url: str, timeout_s: float = 5.0) -> HttpEngine:
    return HttpEngine(url, request_timeout_s=timeout_s, control_timeout_s=timeout_s)


def test_body_bans_tokens_and_sends_a_seed_only_when_there_is_one():
    body = generate_body(request(), "p")
    assert body["sampling_params"]["logit_bias"] == {"5": -1e9, "6": -1e9}
    assert "sampling_seed" not in body["sampling_params"]
    assert body["return_logprob"] is True
    assert body["extra_key"] == "p"
    assert body["sampling_params"]["stop_token_ids"] == [2, 0]
    assert body["image_data"] == [url("YQ==")]
    assert generate_body(request(seed=9), "p")["sampling_params"]["sampling_seed"] == 9


def test_several_images_of_a_group_are_one_item():
    assert generate_body(request(images=(b"a", b"b")), "p")["image_data"] == [
        [url("YQ=="), url("Yg==")]
    ]
    single = generate_body(request(images=(b"a", b"b"), num_trajectories=1), "p")
    assert single["image_data"] == [url("YQ=="), url("Yg==")]


def test_a_group_is_parsed_with_versions_and_logprobs():
    group = parse_group(
        [response(), response(finish="length")], 2, cache_version=2, max_response_tokens=8
    )
    first, second = group.trajectories
    assert (first.oldest_version, first.newest_version, first.cache_version) == (2, 3, 2)
    assert first.rollout_logprobs.tolist() == [-0.5, -1.5]
    assert first.response_token_ids.dtype == np.int32
    assert (second.index, second.finish_reason) == (1, FinishReason.LENGTH)
    assert group.num_prompt_tokens == 20


def test_aborted_responses_are_counted_and_left_out():
    aborted = {**response(finish="abort", output_token_logprobs=[]), "output_ids": []}
    group = parse_group([response(), aborted], 2, cache_version=0, max_response_tokens=8)
    assert (len(group.trajectories), group.num_aborted) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        [response()],
        [response(), {}],
        [response(), response(weight_versions=[{"version": "default", "start": 0, "end": 2}])],
        [response(), response(weight_versions=[{"version": "1", "start": 0, "end": 1}])],
        [response(), response(weight_versions=[{"version": str(2**31), "start": 0, "end": 2}])],
        [response(prompt_tokens=2**31), response()],
        [response(prompt_tokens=0), response()],
        [response(), response(output_token_logprobs=[[-0.5, 7, None]])],
        [response(), response(output_token_logprobs=[[-0.5, 7, None], [-0.5, 9, None]])],
        [response(), response(output_token_logprobs=[[None, 7, None], [-0.5, 8, None]])],
        [response(), response(output_token_logprobs=[[float("nan"), 7, 0], [-0.5, 8, 0]])],
        [response(), response(output_token_logprobs=[[], []])],
        [response(), {**response(), "output_ids": [2**40, 8]}],
        [response(), {**response(output_token_logprobs=[]), "output_ids": []}],
        [response(), []],
        "no",
        None,
    ],
)
def test_a_useless_answer_is_the_request_s_failure(answer):
    with pytest.raises(RequestFailed, match="/generate"):
        parse_group(answer, 2, cache_version=0, max_response_tokens=8)


def test_more_tokens_than_were_asked_for_are_useless():
    with pytest.raises(RequestFailed, match="2 tokens, asked for 1 at most"):
        parse_group([response()], 1, cache_version=0, max_response_tokens=1)


async def test_errors_carry_the_servers_message(embedded_url):
    async with client(embedded_url) as engine:
        with pytest.raises(RequestRejected, match=r"HTTP 400.*picture 0 cannot be decoded"):
            await engine.generate(request(prompt_token_ids=np.array([5], dtype=np.int32)))
        with pytest.raises(EngineError, match="/end_weight_update: HTTP 400: no weight-update"):
            await engine.end_update()


async def test_a_generated_group_against_a_real_server(embedded_url, renderer):
    async with client(embedded_url, 30) as engine:
        await engine._ask("POST", "/update_weight_version", {"new_version": "11"})
        assert await engine.version() == 11
        assert await engine.is_healthy()
        group = await engine.generate(
            request(
                prompt_token_ids=renderer.prompt_token_ids(PROBLEM),
                images=(png(64, 64),),
                num_trajectories=3,
            )
        )
        assert group.num_prompt_tokens == len(renderer.prompt_token_ids(PROBLEM)) + 15
        assert [t.index for t in group.trajectories] == [0, 1, 2]
        assert {t.newest_version for t in group.trajectories} == {11}
        await engine._ask("POST", "/update_weight_version", {"new_version": "default"})
        assert await engine.version() is None


async def test_a_request_meets_only_cache_entries_of_its_own_version(unused_tcp_port):
    """A fake server that notes which part of its prefix cache each request may use."""
    bucket = WeightBucket(names=("a",), dtypes=("float32",), shapes=((1,),), num_bytes=4)
    status = 200
    asked, may_answer = asyncio.Event(), asyncio.Event()
    may_answer.set()

    async def update(_: web.Request) -> web.Response:
        return web.json_response({}, status=status)

    parts: list[str] = []

    async def generate(sent: web.Request) -> web.Response:
        parts.append((await sent.json())["extra_key"])
        asked.set()
        await may_answer.wait()
        return web.json_response([response(), response()])

    app = web.Application()
    app.router.add_post("/update_weights_from_distributed", update)
    app.router.add_post("/generate", generate)
    async with serving(app, unused_tcp_port) as url, client(url) as engine:

        async def cache_versions() -> set[int]:
            return {t.cache_version for t in (await engine.generate(request())).trajectories}

        assert await cache_versions() == {0}  # as old as can be
        await engine.update(bucket, group="g", final_version=4, flush=True)
        await engine.update(bucket, group="g", final_version=None, flush=True)  # not the last one
        assert await cache_versions() == {4}

        may_answer.clear()
        asked.clear()
        running = asyncio.create_task(cache_versions())
        await asked.wait()
        await engine.update(bucket, group="g", final_version=5, flush=False)
        may_answer.set()
        assert await running == {4}  # when it began, entries of version 4 were there
        assert await cache_versions() == {5}

        status = 500
        with pytest.raises(EngineError):
            await engine.update(bucket, group="g", final_version=6, flush=True)
        assert await cache_versions() == {5}
        zero, four, running_part, five, five_again = parts
        assert four == running_part and five == five_again
        assert len({zero, four, five}) == 3
        async with client(url) as another:
            await another.generate(request())
        assert parts[-1] not in {zero, four, five}  # what an earlier client left is not its own


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRejected),
        (500, RequestFailed),
        *((s, EngineGone) for s in (401, 429, 502, 503)),
    ],
)
async def test_a_status_says_who_is_to_blame(status, kind, unused_tcp_port):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="not now", status=status)

    app = web.Application()
    app.router.add_post("/generate", answer)
    async with serving(app, unused_tcp_port) as url, client(url) as engine:
        with pytest.raises(EngineError, match=f"/generate: HTTP {status}: not now") as told:
            await engine.generate(request())
        assert type(told.value) is kind


async def test_no_server_and_a_silent_server_are_engine_errors(unused_tcp_port):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with client(url) as engine:
        with pytest.raises(EngineError, match=f"/model_info: {url}"):
            await engine.version()
        assert not await engine.is_healthy()

    async def never(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    app = web.Application()
    app.router.add_post("/generate", never)
    async with serving(app, unused_tcp_port), client(url, 0.2) as engine:
        with pytest.raises(EngineError, match=r"/generate: no answer within 0.2 s"):
            await engine.generate(request())


def test_the_times_of_an_engine_that_tells_all():
    answers = [
        response(0, queue_time=0.25, first_token_latency=1.5, e2e_latency=4.0),
        response(1, queue_time=0.5, first_token_latency=2, e2e_latency=6.0),
    ]
    assert latencies_of(answers) == Latencies(0.25, 1.5, (4.0, 6.0))


def test_the_times_of_an_engine_that_tells_the_whole_or_nothing():
    """SGLang without --enable-metrics tells e2e_latency alone."""
    assert latencies_of([response(e2e_latency=4.0)]) == Latencies(None, None, (4.0,))
    assert latencies_of([response()]) == Latencies()
    assert parse_group([response(), response(1)], 2, 3, 4).latencies == Latencies()


@pytest.mark.parametrize("value", [None, "soon", -1.0, float("nan"), True, [1.0]])
def test_times_that_make_no_sense_are_no_fault_of_the_answer(value):
    answers = [response(first_token_latency=value), response(1, first_token_latency=1.0)]
    assert parse_group(answers, 2, 3, 4).latencies == Latencies()
