"""What goes with what, and who hears of it."""

import asyncio

import pytest

from broker.bundling import MOST_GROUPS, Bundler, Outcome
from broker.protocol import Refused, Verdict
from common.errors import BrokerUnavailable, ProtocolError
from tests.waiting import LIMIT_S


class Broker:
    """Answers when it is told to: a group that begins with "bad" is refused."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, ...]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.failure: Exception | None = None

    async def send(self, groups: tuple[bytes, ...]) -> tuple[Outcome, ...]:
        self.messages.append(groups)
        await self.goes_on.wait()
        if self.failure is not None:
            raise self.failure
        return tuple(
            Refused(code="bad_group", message="bad") if group.startswith(b"bad")
            else Verdict.ACCEPTED
            for group in groups
        )  # fmt: skip


async def test_a_group_that_comes_alone_is_sent_at_once() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 100)
    for group in (b"a", b"b"):
        assert await bundler.submit(group) is Verdict.ACCEPTED
    assert broker.messages == [(b"a",), (b"b",)]


async def test_what_comes_meanwhile_goes_together_and_each_hears_of_its_own() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 100)
    broker.goes_on.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(bundler.submit(b"first"))
        while not broker.messages:
            await asyncio.sleep(0)
        others = [tasks.create_task(bundler.submit(group)) for group in (b"a", b"bad", b"c")]
        await asyncio.sleep(0)
        broker.goes_on.set()
    assert broker.messages == [(b"first",), (b"a", b"bad", b"c")]
    assert first.result() is Verdict.ACCEPTED
    a, bad, c = (task.result() for task in others)
    assert a is c is Verdict.ACCEPTED and isinstance(bad, Refused)


async def test_what_comes_as_two_messages_end_together_is_sent() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 1)
    broker.goes_on.clear()

    async def submit(*groups: bytes) -> None:
        for group in groups:
            assert await bundler.submit(group) is Verdict.ACCEPTED

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        for groups in ((b"a", b"c"), (b"b",)):
            tasks.create_task(submit(*groups))
        while len(broker.messages) < 2:
            await asyncio.sleep(0)
        broker.goes_on.set()
    assert broker.messages == [(b"a",), (b"b",), (b"c",)]


async def test_a_message_is_bounded_in_bytes_and_groups() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 10)
    sent = [b"1234", b"1234", b"1234", b"x" * 50, b"y"]
    await asyncio.gather(*map(bundler.submit, sent))
    assert broker.messages == [(b"1234", b"1234"), (b"1234",), (b"x" * 50,), (b"y",)]
    await asyncio.gather(*(Bundler.submit(bundler, b"") for _ in range(MOST_GROUPS + 1)))
    assert [len(message) for message in broker.messages[4:]] == [MOST_GROUPS, 1]


async def test_a_failure_is_told_to_all_of_its_message_and_to_no_other() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 2)
    broker.failure = ProtocolError("too large")
    found = await asyncio.gather(*map(bundler.submit, (b"a", b"b")), return_exceptions=True)
    assert found == [broker.failure] * 2 and broker.messages == [(b"a", b"b")]
    broker.failure = None
    assert await bundler.submit(b"c") is Verdict.ACCEPTED


async def test_a_submitter_that_is_cancelled_leaves_the_others() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 100)
    broker.goes_on.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        one, two = (tasks.create_task(bundler.submit(group)) for group in (b"a", b"b"))
        while not broker.messages:
            await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        broker.goes_on.set()
    assert one.cancelled() and two.result() is Verdict.ACCEPTED


async def test_closing_leaves_nobody_waiting() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 1)
    broker.goes_on.clear()
    tasks = [asyncio.create_task(bundler.submit(group)) for group in (b"a", b"b")]
    while not broker.messages:
        await asyncio.sleep(0)
    await bundler.close()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(LIMIT_S):
                await task
    await Bundler(broker.send, lambda: 1).close()


async def test_a_group_whose_submitter_was_cancelled_is_not_sent() -> None:
    broker = Broker()
    bundler = Bundler(broker.send, lambda: 100)
    broker.goes_on.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(bundler.submit(b"first"))
        while not broker.messages:
            await asyncio.sleep(0)
        cancelled = tasks.create_task(bundler.submit(b"cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        broker.goes_on.set()
    assert broker.messages == [(b"first",)]


async def test_closing_before_the_first_message_leaves_no_submitter_waiting() -> None:
    bundler = Bundler(Broker().send, lambda: 100)
    submitted = asyncio.create_task(bundler.submit(b"a"))
    await asyncio.sleep(0)
    await bundler.close()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(asyncio.CancelledError):
            await submitted
    with pytest.raises(BrokerUnavailable, match="closed"):
        await bundler.submit(b"b")


async def test_a_limit_that_is_learnt_later_counts() -> None:
    broker, limit = Broker(), 100
    bundler = Bundler(broker.send, lambda: limit)
    broker.goes_on.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(bundler.submit(b"first"))
        while not broker.messages:
            await asyncio.sleep(0)
        for group in (b"aa", b"bb"):
            tasks.create_task(bundler.submit(group))
        await asyncio.sleep(0)
        limit = 3
        broker.goes_on.set()
    assert broker.messages == [(b"first",), (b"aa",), (b"bb",)]
