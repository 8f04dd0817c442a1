"""The learner's side of a push against the rollout's, on a real engine: both ways that weights go.

No broker: the publisher's announcements go straight to the receiver. What the learner expects a
server to answer is computed as in a run, and the server is asked as in a run.

Holds rollout/sglang/image_cache.py.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker.protocol import Members
from common.config import RunConfig
from common.config_cli import build
from common.push_groups import PREFIX
from common.rendering import Renderer
from common.types import WeightUpdate
from learner.model.student import load_student, prompt_positions
from learner.push.buckets import snapshot_of
from learner.push.expectations import Expectations
from learner.push.publisher import Publisher
from learner.push.pushed_weights import PushedWeights
from learner.push.weight_files import weight_folder
from rollout.engine import GroupRequest
from rollout.engine_process import engine_environment
from rollout.http_engine import HttpEngine
from rollout.rollout_server import http_engine
from rollout.serving import Served, ServingState
from rollout.weights import PushFailed, WeightReceiver
from tests.rollout.support import png, reference_logprobs, run_config, running_server
from tests.tiny_model import PROBLEM, make_tiny_checkpoint

IMAGE = png(64, 64)
MEMBER = "rollout-0"
SGLANG = pytest.param("sglang", marks=(pytest.mark.sglang, pytest.mark.timeout(300)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module", params=["embedded", SGLANG])
def url(request, checkpoint, tmp_path_factory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_server(run_config(checkpoint, engine=request.param), log) as found:
        yield found


class DirectLine:
    """Stands where the broker is: one member, whose announcements a test takes from a queue."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.announced: asyncio.Queue[WeightUpdate] = asyncio.Queue()
        self.acknowledged = -1

    def call(self, request: Callable[[Any], Awaitable[Any]], timeout_s: float) -> Any:
        async def carry_out() -> Any:
            return await request(self)

        return asyncio.run_coroutine_threadsafe(carry_out(), self._loop).result(timeout_s)

    def cancel_calls(self) -> None:
        pass

    async def announce(self, update: WeightUpdate) -> None:
        self.announced.put_nowait(update)

    async def watch_members(self, at_least: int, wait_s: float) -> Members:
        return Members(acknowledged={MEMBER: self.acknowledged}, ranks={MEMBER: 1})


class Pair:
    """A learner that does not train, and one server."""

    def __init__(
        self, config: RunConfig, model: Any, engine: HttpEngine, line: DirectLine,
        receiver: WeightReceiver, publisher: Publisher, serving: ServingState, renderer: Renderer,
    ) -> None:  # fmt: skip
        self.config = config
        self.model = model
        self.engine = engine
        self.line = line
        self.receiver = receiver
        self.publisher = publisher
        self.serving = serving
        self.renderer = renderer

    def scale(self, factor: float, part: str = "") -> None:
        """Other weights, of the tensors with `part` in their name."""
        with torch.no_grad():
            for name, tensor in PushedWeights(self.model).items():
                if part in name:
                    tensor.mul_(factor)

    async def push(
        self, version: int, change: Callable[[WeightUpdate], WeightUpdate] | None = None
    ):
        await asyncio.to_thread(self.publisher.push, version)
        async with asyncio.timeout(60):
            update = await self.line.announced.get()
            try:
                await self.receiver.receive(update if change is None else change(update))
                self.line.acknowledged = version
            finally:
                await asyncio.to_thread(self.publisher.wait)

    async def check_responses(self, version: int) -> None:
        """What it generates now comes from the learner's weights."""
        result = await self.engine.generate(self.request(8))
        banned = tuple(self.renderer.vision_token_ids)
        for trajectory in result.trajectories:
            assert trajectory.oldest_version == version
            ids = trajectory.response_token_ids.tolist()
            expected = reference_logprobs(self.model, self.renderer, IMAGE, ids, banned=banned)
            np.testing.assert_allclose(trajectory.rollout_logprobs, expected, atol=5e-5)

    def request(self, tokens: int, *, is_endless: bool = False) -> GroupRequest:
        banned = list(self.renderer.vision_token_ids)
        if is_endless:
            banned.append(self.renderer.tokenizer.eos_token_id)
        return GroupRequest(
            prompt_token_ids=self.renderer.prompt_token_ids(PROBLEM), images=(IMAGE,),
            num_trajectories=2, temperature=1.0, top_p=1.0, top_k=-1, max_response_tokens=tokens,
            banned_token_ids=tuple(banned), end_token_ids=tuple(self.renderer.end_token_ids),
            seed=None,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def started(
    url: str, checkpoint: Path, folder: Path, is_greeting: bool = True, **weights: object
) -> AsyncIterator[Pair]:
    config = build(
        {
            "model": {"path": str(checkpoint), "dtype": "float32", "gradient_checkpointing": False},
            "broker": {"max_staleness": 1},
            "rollout": {"request_timeout_s": 30.0},
            "weights": {"dtype": "float32", "bucket_mib": 1, "folder": folder, **weights},
        }
    )
    model = load_student(config.model, torch.device("cpu"))
    renderer = Renderer(str(checkpoint))
    checks = Expectations(config, model, renderer, functools.partial(prompt_positions, model))
    line, serving = DirectLine(), ServingState()
    async with http_engine(config, url) as engine:
        receiver = WeightReceiver(engine, await engine.info(), MEMBER, serving, folder)
        snapshot = snapshot_of(config.weights, PushedWeights(model))
        files = weight_folder(config.weights, folder, model)
        with Publisher(
            config.weights, line, 0, snapshot, 1, 30, 0.5, checks=checks, files=files,
            is_greeting=is_greeting,
        ) as publisher:  # fmt: skip
            pair = Pair(config, model, engine, line, receiver, publisher, serving, renderer)
            try:
                yield pair
            finally:
                await receiver.leave_group()
                await engine.resume()


@pytest.mark.parametrize("transport", ["broadcast", "files"])
async def test_every_push_brings_the_learner_s_weights(url, checkpoint, tmp_path, transport):
    async with started(url, checkpoint, tmp_path, transport=transport) as pair:
        for version in range(5):
            await pair.push(version)
            assert pair.serving.weights == Served(0, version)
            await pair.check_responses(version)
            pair.scale(1.1)
        if transport == "files":
            kept = sorted(path.name for path in tmp_path.glob("version-*"))
            assert kept == ["version-000002-2", "version-000003-3", "version-000004-4"]


@pytest.mark.parametrize("is_greeting", [True, False])
async def test_servers_of_others_are_sent_nothing_before_the_first_bucket(
    url, checkpoint, tmp_path, is_greeting
):
    """By its name a server knows how a group is joined; plain SGLang knows one way alone."""
    names: list[str] = []

    def note_name(update: WeightUpdate) -> WeightUpdate:
        names.append(update.source.name)
        return update

    async with started(url, checkpoint, tmp_path, is_greeting) as pair:
        await pair.push(0, note_name)
        await pair.check_responses(0)
    assert [name.startswith(PREFIX) for name in names] == [is_greeting]


@pytest.mark.parametrize("part", ["visual", "model.embed_tokens"])
async def test_nothing_is_computed_from_what_was_cached_before_a_push(
    url, checkpoint, tmp_path, part
):
    """The image has been embedded, and the prompt computed, with the weights before."""
    async with started(url, checkpoint, tmp_path) as pair:
        for version in range(3):
            await pair.push(version)
            await pair.check_responses(version)
            pair.scale(1.2, part)


async def test_a_tensor_that_arrived_wrong_is_named_and_never_served(url, checkpoint, tmp_path):
    async with started(url, checkpoint, tmp_path) as pair:
        await pair.push(0)

        def expecting_others(update: WeightUpdate) -> WeightUpdate:
            assert update.checksums is not None
            by_name = {**update.checksums.by_name, "model.norm.weight": "0" * 16}
            checksums = update.checksums.model_copy(update={"by_name": by_name})
            return update.model_copy(update={"checksums": checksums})

        with pytest.raises(PushFailed, match=r"1 of \d+ tensors differ.*: model.norm.weight") as e:
            await pair.push(1, expecting_others)
        assert e.value.is_touched
        assert pair.serving.weights is None
        waiting = asyncio.ensure_future(pair.engine.generate(pair.request(2)))
        await asyncio.sleep(0.5)  # in which it would be answered, were it not paused
        assert not waiting.done()
        await pair.push(2)
        assert {t.newest_version for t in (await waiting).trajectories} == {2}
        await pair.check_responses(2)


async def test_what_runs_for_undone_steps_is_cut_short(url, checkpoint, tmp_path):
    """It would only stand in the probe's way: nobody takes it any more."""
    async with started(url, checkpoint, tmp_path) as pair:
        await pair.push(0)
        running = asyncio.ensure_future(pair.engine.generate(pair.request(2000, is_endless=True)))
        await asyncio.sleep(0.5)  # for some tokens
        await pair.push(1, lambda update: update.model_copy(update={"history": 1}))
        assert (await running).num_aborted == 2
        assert pair.serving.weights == Served(1, 1)
        await pair.check_responses(1)


async def test_a_probe_that_differs_ends_the_serving(url, checkpoint, tmp_path):
    async with started(url, checkpoint, tmp_path) as pair:
        await pair.push(0)

        def expecting_others(update: WeightUpdate) -> WeightUpdate:
            *others, last = update.probes
            off = last.model_copy(update={"logprobs": last.logprobs - 0.1})
            return update.model_copy(update={"probes": (*others, off)})

        with pytest.raises(PushFailed, match=r"differ from the learner's by 0\.1 nats"):
            await pair.push(1, expecting_others)
        assert pair.serving.weights is None
        await pair.push(2)
        await pair.check_responses(2)


async def test_a_damaged_file_is_found_before_it_is_loaded(url, checkpoint, tmp_path):
    async with started(url, checkpoint, tmp_path, transport="files") as pair:
        await pair.push(0)

        def damaged(update: WeightUpdate) -> WeightUpdate:
            path = tmp_path / "version-000001-1" / "model.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
            return update

        pair.scale(1.1)
        with pytest.raises(PushFailed, match="not the file that the learner wrote") as caught:
            await pair.push(1, damaged)
        assert not caught.value.is_touched
        assert pair.serving.weights == Served(0, 0)
        pair.scale(1 / 1.1)
        await pair.check_responses(0)


async def test_in_place_running_responses_go_on_and_new_ones_see_nothing_old(
    url, checkpoint, tmp_path
):
    async with started(url, checkpoint, tmp_path, pause_mode="in_place") as pair:
        await pair.push(0)
        running = asyncio.ensure_future(pair.engine.generate(pair.request(1500, is_endless=True)))
        await asyncio.sleep(0.4)  # for some tokens
        assert not running.done()
        pair.scale(1.2)
        await pair.push(1)
        await pair.check_responses(1)
        for trajectory in (await running).trajectories:
            assert [span.version for span in trajectory.version_spans] == [0, 1]
            assert trajectory.oldest_version == 0


@pytest.mark.sglang
@pytest.mark.timeout(300)
async def test_image_embeddings_do_not_outlive_a_push(checkpoint, tmp_path):
    """SGLang keeps them over new weights and /flush_cache; the probe would differ by those kept."""
    config = run_config(checkpoint, engine="sglang")
    assert int(engine_environment(config)["SGLANG_VLM_CACHE_SIZE_MB"]) > 0
    with running_server(config, tmp_path / "engine.log") as url:
        async with started(url, checkpoint, tmp_path / "weights") as pair:
            await pair.push(0)
            pair.scale(1.2, "visual")
            await pair.push(1)
            await pair.check_responses(1)
