"""Worker and weight updates against a real broker and a real engine server.

Holds rollout/image_files.py.
"""

import asyncio
import contextlib

import numpy as np
import pytest

from common.errors import ConfigError, EngineError
from common.group import Group
from common.rendering import Renderer
from tests.rollout.support import NUM_TRAJECTORIES, Run, reference_logprobs, started_run
from tests.waiting import LIMIT_S, until


def check_group(run: Run, group: Group, reference, renderer) -> None:
    """Log-probs are those of `reference`, whatever version they claim."""
    image = run.images.read_bytes(run.samples[group.sample_id].image)
    assert len(group.trajectories) == NUM_TRAJECTORIES
    for trajectory in group.trajectories:
        expected = reference_logprobs(
            reference, renderer, image, trajectory.response_token_ids.tolist(),
            banned=tuple(renderer.vision_token_ids),
        )  # fmt: skip
        np.testing.assert_allclose(trajectory.rollout_logprobs, expected, atol=2e-5)
        assert not set(trajectory.response_token_ids) & set(renderer.vision_token_ids)


def check_spans(run: Run, group: Group, by_version, renderer) -> None:
    """Log-probs of each token are those of the version that it names."""
    image = run.images.read_bytes(run.samples[group.sample_id].image)
    for trajectory in group.trajectories:
        for span in trajectory.version_spans:
            expected = reference_logprobs(
                by_version[span.version], renderer.renderer, image,
                trajectory.response_token_ids.tolist(), banned=tuple(renderer.vision_token_ids),
            )  # fmt: skip
            found = trajectory.rollout_logprobs[span.start : span.end]
            np.testing.assert_allclose(found, expected[span.start : span.end], atol=2e-5)


async def test_tokens_come_from_the_weights_that_they_name(
    tmp_path, checkpoint, renderer, engine, model, other_model
):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.acknowledged(0)
        for group in (await run.learner.take(1)).groups:
            assert {t.newest_version for t in group.trajectories} == {0}
            check_group(run, group, model, renderer)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1)
        await run.learner.acknowledged(1)
        await run.learner.take(2)
        await run.broker.ack(2)
        for group in (await run.learner.take(3)).groups:
            assert group.responses.oldest_version == 1
            assert {t.cache_version for t in group.trajectories} == {1}
            check_group(run, group, other_model, renderer)
        gauges = {m.member_id: m.gauges for m in (await run.broker.status()).members}
        assert set(gauges["rollout-0"]) == {
            "tokens_per_s", "groups_in_flight", "idle_share", "serving_version",
            "trajectories_total", "tokens_total",
        }  # fmt: skip


async def test_a_new_learner_s_weights_replace_those_of_the_undone_steps(
    tmp_path, checkpoint, renderer, engine, model, other_model
):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.take(1)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1)
        await run.learner.acknowledged(1)
        await run.start_learner()  # from the start: step 1 is undone
        await asyncio.sleep(0.5)  # in which it would acknowledge what it serves
        assert (await run.broker.status()).history == 1
        assert (await run.broker.watch_members(1, 0)).acknowledged == {"rollout-0": -1}
        await run.learner.push(model.state_dict(), 0)
        for step in (1, 2):
            for group in (await run.learner.take(step)).groups:
                assert {(t.newest_version, t.cache_version) for t in group.trajectories} == {(0, 0)}
                check_group(run, group, model, renderer)
            await run.broker.ack(step)


async def test_nothing_is_leased_before_the_first_push(tmp_path, checkpoint, renderer, engine):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.broker.watch_members(1, 10)
        await asyncio.sleep(0.5)  # in which it would ask for leases
        assert (await run.broker.status()).slots_used == 0


async def test_a_push_that_breaks_off_quarantines_until_the_next(
    tmp_path, checkpoint, renderer, engine, model, other_model, caplog
):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.take(1)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1, break_off=True)
        await until(lambda: "failed, not serving until one succeeds" in caplog.text)
        assert (await run.broker.watch_members(1, 0)).acknowledged == {"rollout-0": 0}
        await run.learner.push(other_model.state_dict(), 1, attempt=1)
        await run.learner.acknowledged(1)
        await run.learner.take(2)
        await run.broker.ack(2)
        for group in (await run.learner.take(3)).groups:
            assert group.responses.oldest_version == 1
            check_group(run, group, other_model, renderer)


@pytest.mark.slow
async def test_a_half_updated_engine_stays_paused_when_the_next_push_fails_early(
    tmp_path, checkpoint, renderer, engine, model, other_model, caplog
):
    """What waits in it must not be generated by weights of two versions."""
    endless = EndlessRenderer(renderer)
    async with started_run(
        tmp_path, checkpoint, endless, engine, max_response_tokens=400, max_concurrent_groups=2
    ) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.acknowledged(0)
        await run.learner.take(1)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1, break_off=True)
        failed = "failed, not serving until one succeeds"
        await until(lambda: caplog.text.count(failed) == 1)
        await run.learner.announce_what_nobody_can_join(other_model.state_dict(), 1, attempt=1)
        await until(lambda: caplog.text.count(failed) == 2)
        assert "serving the weights before" not in caplog.text
        await run.learner.push(other_model.state_dict(), 1, attempt=2)
        for group in (await run.learner.take(2)).groups:
            check_spans(run, group, (model, other_model), endless)


class EndlessRenderer:
    """Bans the end token as well, so that responses are long."""

    def __init__(self, renderer) -> None:
        self.renderer = renderer
        self.prompt_token_ids = renderer.prompt_token_ids
        self.engine_image = renderer.engine_image
        self.end_token_ids = renderer.end_token_ids
        self.vision_token_ids = [*renderer.vision_token_ids, renderer.tokenizer.eos_token_id]


@pytest.mark.parametrize(("mode", "has_mixed"), [("retract", True), ("abort", False)])
async def test_a_push_in_the_middle_of_responses(
    tmp_path, checkpoint, renderer, engine, model, other_model, mode, has_mixed
):
    """Retracted responses go on with the new weights, aborted ones are made again."""
    endless = EndlessRenderer(renderer)
    async with started_run(
        tmp_path, checkpoint, endless, engine, max_response_tokens=300, max_concurrent_groups=4
    ) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.take(1)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1, pause_mode=mode)
        batch = await run.learner.take(2)
        trajectories = [(g, t) for g in batch.groups for t in g.trajectories]
        assert all(t.num_tokens == 300 for _, t in trajectories)
        assert any(t.newest_version == 1 for _, t in trajectories)
        assert any(len(t.version_spans) == 2 for _, t in trajectories) == has_mixed
        # what began before the push may have used the caches of version 0
        assert all(t.cache_version <= t.version_spans[0].version for _, t in trajectories)
        for group in batch.groups:
            check_spans(run, group, (model, other_model), endless)


@pytest.mark.parametrize("has_images", [True, False], ids=["folder", "broker"])
async def test_a_broken_sample_is_given_back_and_the_rest_goes_on(
    tmp_path, checkpoint, renderer, engine, model, caplog, has_images
):
    """Images come from the dataset folder, or from the broker where there is none."""
    async with started_run(tmp_path, checkpoint, renderer, engine, has_images=has_images) as run:
        (tmp_path / "data" / "images" / "0.png").write_bytes(b"not what the dataset says")
        await run.learner.push(model.state_dict(), 0)
        seen = set()
        for step in (1, 2):
            seen |= {group.sample_id for group in (await run.learner.take(step)).groups}
            await run.broker.ack(step)
            await run.learner.push(model.state_dict(), step)
        assert len(seen) >= 7
        assert "s0" not in seen
    assert "giving back group" in caplog.text
    assert "sha256 is" in caplog.text


async def test_stop_drains_and_says_goodbye(tmp_path, checkpoint, renderer, engine, model):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.take(1)
        run.stop.set()
        async with asyncio.timeout(LIMIT_S):
            await run.member
        assert (await run.broker.watch_members(0, 0)).acknowledged == {}


@pytest.mark.slow
async def test_an_engine_that_is_gone_for_good_ends_the_process(
    tmp_path, checkpoint, renderer, engine, model
):
    """Attached to a proxy that answers a push and then stops listening."""
    async with (
        _Relay(engine) as relay,
        started_run(tmp_path, checkpoint, renderer, relay.url, max_restarts=1) as run,
    ):
        await run.learner.push(model.state_dict(), 0)
        await run.learner.take(1)
        relay.close()
        await run.broker.ack(1)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with asyncio.timeout(LIMIT_S):
                await run.member
        assert caught.group_contains(EngineError)


@pytest.mark.slow
async def test_two_servers_behind_one_process_share_the_work_and_each_other_s_fate(
    tmp_path, checkpoint, renderer, engine, second_url, model
):
    """What one of them leaves undone when it dies, the other does within the lease."""
    async with (
        _Relay(engine) as first,
        _Relay(second_url) as second,
        started_run(
            tmp_path, checkpoint, EndlessRenderer(renderer), first.url, second.url,
            max_concurrent_groups=2, max_response_tokens=150,
        ) as run,
    ):  # fmt: skip
        await run.learner.push(model.state_dict(), 0, servers=2)
        await run.learner.acknowledged(0)
        await run.learner.take(1)
        assert first.connections > 0 and second.connections > 0
        members = (await run.broker.status()).members
        assert sum(m.role == "rollout" for m in members) == 2
        await run.broker.ack(1)
        first.close()

        async def is_alone() -> bool:
            return (await run.broker.watch_members(0, 0)).acknowledged.keys() == {"rollout-1"}

        await until(is_alone)
        await run.learner.push(model.state_dict(), 1, servers=1)
        for step in (2, 3):
            batch = await run.learner.take(step)
            assert all(len(g.trajectories) == NUM_TRAJECTORIES for g in batch.groups)
            await run.broker.ack(step)
            await run.learner.push(model.state_dict(), step, servers=1)


class _Relay:
    """Forwards TCP to a server until it is closed; from then on it hangs up on whoever comes.

    It goes on listening until its end: asyncio drops a connection, unclosed, whose server is closed
    between accepting it and telling of it (CPython 3.11).
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._copies: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def __aenter__(self) -> "_Relay":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await asyncio.gather(*self._copies, return_exceptions=True)
        self._server.close()

    def close(self) -> None:
        self._is_closed = True
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:
            writer.close()
            return
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, there_writer]
        if self._is_closed:  # meanwhile
            self.close()
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._copies.add(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while content := await source.read(65536):
                sink.write(content)
                await sink.drain()
        sink.close()


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"model.path = '\S+nothing' has no usable processor"):
        Renderer(str(tmp_path / "nothing"))
