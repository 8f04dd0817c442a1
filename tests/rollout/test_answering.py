"""Held-out questions to a real member with a real engine, beside the groups that are trained on."""

import pytest
import torch

from broker.client import BrokerClient
from broker.protocol import Answer
from common.config import TeacherSection
from common.types import Sample
from rollout.embedded.sampler import Prompt, RequestLaw, generate
from rollout.engine import Engine
from rollout.pins import MAX_PINNED, Pins
from rollout.pool import Server
from rollout.serving import Served, ServingState
from tests.plain_pixels import plain_pixel_values
from tests.rollout.support import Run, started_run
from tests.viewing import teacher_picture

MAX_TOKENS = 5


async def ask(run: Run, number: int, version: int, samples: list[str], **changes) -> None:
    order = {"num_urgent": 0, "max_tokens": MAX_TOKENS, "is_last": False, **changes}
    history = run.learner.history
    await run.broker.order_measurement(number, history, version, samples, **order)


async def answers(broker: BrokerClient, number: int, count: int) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    is_pinned = False
    while len(found) < count:
        news = await broker.read_measurement(number, len(found), is_pinned, 10.0)
        is_pinned = news.is_pinned
        found |= {answer.index: answer for answer in news.answers}
    return found


def greedy(model, renderer, run: Run, sample: Sample, is_crop: bool) -> list[int]:
    """The answers that the sampler gives by itself."""
    picture = run.images.open(sample.image)
    if is_crop:
        picture = teacher_picture(sample, run.images, TeacherSection())
    rendered = renderer.prompt(sample.problem, picture)
    law = RequestLaw(
        max_new_tokens=MAX_TOKENS,
        temperature=0,
        stop_token_ids=frozenset(renderer.end_token_ids),
        logit_bias=tuple((token, -1e9) for token in renderer.vision_token_ids),
    )
    pixel_values = plain_pixel_values(renderer, rendered)
    arrays = (rendered.input_ids, rendered.mm_token_type_ids, pixel_values, rendered.image_grid_thw)
    (sequence,) = generate(model, Prompt(*map(torch.from_numpy, arrays)), law, 1, 0)
    return sequence.token_ids


async def heldout(run: Run) -> list[Sample]:
    """The samples of the first step's groups: the broker of these tests knows them all."""
    groups = (await run.learner.take(1)).groups
    return sorted((run.samples[group.sample_id] for group in groups), key=_name)


def _name(sample: Sample) -> str:
    return sample.sample_id


@pytest.mark.parametrize("has_images", [True, False])
async def test_both_views_are_answered_greedily_by_the_version_asked_for(
    tmp_path,
    checkpoint,
    renderer,
    engine,
    model,
    other_model,
    has_images,
):
    """While another is served: a copy was kept. The pictures come from the folder or the broker."""
    async with started_run(tmp_path, checkpoint, renderer, engine, has_images=has_images) as run:
        await run.learner.push(model.state_dict(), 0, is_measured=True)
        await run.learner.acknowledged(0)
        samples = await heldout(run)
        await run.broker.ack(1)
        await run.learner.push(other_model.state_dict(), 1)
        await run.learner.acknowledged(1)
        names = [sample.sample_id for sample in samples]
        await ask(run, 1, 0, names)
        await ask(run, 2, 1, names, is_last=True)
        for number, weights in ((1, model), (2, other_model)):
            found = await answers(run.broker, number, 2 * len(samples))
            assert not any(answer.error for answer in found.values())
            for place, sample in enumerate(samples):
                for view in (0, 1):
                    answer = found[2 * place + view]
                    expected = greedy(weights, renderer, run, sample, is_crop=view == 1)
                    assert answer.token_ids.tolist() == expected, (number, sample.sample_id, view)
                    ends = expected[-1] in renderer.end_token_ids
                    assert answer.is_cut is not ends


async def test_a_picture_that_is_gone_is_an_answer_with_the_reason(
    tmp_path,
    checkpoint,
    renderer,
    engine,
    model,
):
    async with started_run(tmp_path, checkpoint, renderer, engine) as run:
        await run.learner.push(model.state_dict(), 0)
        await run.learner.acknowledged(0)
        (sample, *_) = await heldout(run)
        (tmp_path / "data" / sample.image.path).unlink()
        await ask(run, 1, 0, [sample.sample_id])
        found = await answers(run.broker, 1, 2)
        assert all("there is no such file" in answer.error for answer in found.values())
        assert all(len(answer.token_ids) == 0 for answer in found.values())


# ---- copies --------------------------------------------------------------------------------------
class RestartLoop:
    """An engine that can do nothing but keep copies."""

    def __init__(self, can_pin: bool = True) -> None:
        self.can_pin = can_pin
        self.kept: list[int] = []

    async def pin(self, version: int) -> bool:
        self.kept += [version] if self.can_pin else []
        return self.can_pin

    async def unpin(self, version: int) -> None:
        self.kept.remove(version)


async def test_the_newest_copies_are_kept_and_those_of_undone_steps_go():
    keeper = RestartLoop()
    as_engine: Engine = keeper  # type: ignore[assignment]
    server = Server("rollout-0", as_engine, ServingState(), 1)
    pins = Pins(as_engine, server)
    for version in (0, 5, 10):
        assert await pins.pin(Served(0, version))
    assert keeper.kept == [5, 10] and len(keeper.kept) == MAX_PINNED
    assert server.pinned_of(Served(0, 99)) == (5, 10) and server.pinned_of(Served(1, 5)) == ()
    assert await pins.pin(Served(1, 5))
    assert keeper.kept == [5] and server.pinned == (Served(1, 5),)
    keeper.can_pin = False
    assert not await pins.pin(Served(1, 6))
    assert server.pinned == (Served(1, 5),)
    assert keeper.kept == [5]
