"""One measurement against a real broker: answers as they come, and what becomes of lost ones."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from broker.client import BrokerClient
from broker.protocol import Answer, AnswerLease
from learner.measuring.evaluation import Accuracy, Questions
from learner.measuring.measurement import Measurement
from tests.broker.support import (
    Running,
    make_rules,
    make_sample,
    make_service,
    make_source,
    running_broker,
)

SAMPLES = tuple(make_sample(number) for number in range(3))
QUESTIONS = Questions(SAMPLES, 1, frozenset(sample.sample_id for sample in SAMPLES))


class Line:
    """The learner's feed, on the test's own loop."""

    history = 0

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()

    def begin(self, request: Callable[[BrokerClient], Any]) -> "concurrent.futures.Future[Any]":
        return asyncio.run_coroutine_threadsafe(request(self._broker), self._loop)


class Judge:
    """An evaluation whose accuracy is the number of answers."""

    def accuracy(self, questions: Questions, answers: Any, version: int) -> Accuracy:
        return Accuracy(1.0, 1.0, len(answers), version=version)


@contextlib.asynccontextmanager
async def in_a_run() -> AsyncIterator[tuple[Running, BrokerClient, BrokerClient]]:
    """A broker, its learner of history 0, and a rollout server."""
    source = make_source(4)
    service = make_service(
        source, make_rules(), heldout={sample.sample_id: sample for sample in SAMPLES}
    )
    async with (
        running_broker(make_rules(), source, service=service) as running,
        running.client("learner-0") as learner,
        running.client("rollout-0") as rollout,
    ):
        assert (await learner.resume(0)).history == Line.history
        yield running, learner, rollout


def begin(learner: BrokerClient, timeout_s: float = 60.0, version: int = 0) -> Measurement:
    judge: Any = Judge()
    return Measurement(
        Line(learner), judge, QUESTIONS, version, max_tokens=4, is_last=False, timeout_s=timeout_s
    )


async def until(measurement: Measurement, condition: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(measurement.wait, condition, 60.0)


async def lease(rollout: BrokerClient, most: int = 99, pinned: tuple[int, ...] = ()) -> AnswerLease:
    return await rollout.lease_answers(Line.history, 0, pinned, most, 5.0)


async def answer(rollout: BrokerClient, leased: AnswerLease) -> None:
    tokens = np.array([5], dtype=np.int32)
    answers = [Answer(index=item.index, token_ids=tokens) for item in leased.items]
    await rollout.submit_answers(leased.number, answers)


async def test_a_measurement_is_over_when_all_is_answered():
    async with in_a_run() as (_, learner, rollout):
        measurement = begin(learner)
        shown = await lease(rollout)
        assert shown.is_urgent and len(shown.items) == 2 and not measurement.has_shown
        await answer(rollout, shown)
        await until(measurement, lambda: measurement.has_shown)
        assert not measurement.is_over and not measurement.allows_push
        assert sorted(measurement.answers) == [0, 1]
        await answer(rollout, await lease(rollout))
        await until(measurement, lambda: measurement.is_over)
        assert measurement.accuracy() == Accuracy(1.0, 1.0, 6) and measurement.seconds > 0


async def test_the_next_push_may_come_when_a_server_keeps_a_copy():
    async with in_a_run() as (_, learner, rollout):
        measurement = begin(learner)
        assert not measurement.allows_push
        await lease(rollout, most=1, pinned=(0,))
        await until(measurement, lambda: measurement.allows_push)
        assert not measurement.is_over
        measurement.abandon()
        await until(measurement, lambda: measurement.is_over)
        assert measurement.accuracy() is None


async def test_who_nobody_answers_gives_up_and_says_so(caplog: pytest.LogCaptureFixture):
    async with in_a_run() as (_, learner, rollout):
        measurement = begin(learner, timeout_s=0.2)
        await until(measurement, lambda: measurement.is_over)
        assert measurement.has_shown and measurement.allows_push
        assert measurement.accuracy() is None
        assert "0 of 6 answers came within 0.2 s (evaluation.timeout_s)" in caplog.text
        assert not (await rollout.lease_answers(Line.history, 0, (), 9, 0.0)).items, "dropped"


async def test_weights_of_which_no_copy_is_left_are_not_waited_for(
    caplog: pytest.LogCaptureFixture,
):
    async with in_a_run() as (_, learner, rollout):
        judge: Any = Judge()
        measurement = Measurement(
            Line(learner), judge, QUESTIONS, 0,
            max_tokens=4, is_last=False, timeout_s=60.0, grace_s=0.0,
        )  # fmt: skip
        await lease(rollout, most=1, pinned=(0,))
        await until(measurement, lambda: measurement.allows_push)
        measurement.note_replaced()
        assert not measurement.is_over
        await rollout.goodbye()
        await until(measurement, lambda: measurement.is_over)
        assert measurement.accuracy() is None
        assert "the servers that kept a copy of its weights are gone" in caplog.text


async def test_a_broker_that_has_forgotten_is_told_again():
    async with in_a_run() as (running, learner, rollout):
        measurement = begin(learner)
        await answer(rollout, await lease(rollout))
        await until(measurement, lambda: measurement.has_shown)
        running.service._evaluations.drop_all()  # as a restart does
        await answer(rollout, await lease(rollout))
        await answer(rollout, await lease(rollout))
        await until(measurement, lambda: measurement.is_over)
        assert measurement.accuracy() == Accuracy(1.0, 1.0, 6)


async def test_a_broker_without_these_samples_is_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
):
    source = make_source(4)
    async with (
        running_broker(make_rules(), source) as running,
        running.client("learner-0") as learner,
    ):
        await learner.resume(0)
        measurement = begin(learner)
        await until(measurement, lambda: measurement.is_over)
        assert measurement.accuracy() is None
        assert "'s0' is not in the broker's data.heldout, which has 0 samples" in caplog.text
