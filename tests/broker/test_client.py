"""Holds broker/exchange.py."""

import asyncio
import random

import pytest

from broker.client import BrokerClient
from broker.exchange import Exchange
from broker.protocol import REASON_LENGTH, Blame, GetStatus, Role
from tests.broker.support import make_rules, make_source, running_broker


async def test_a_reason_of_any_text_can_be_sent() -> None:
    """An engine's words may hold half a surrogate pair, or be longer than a message takes."""
    async with (
        running_broker(make_rules(), make_source(8)) as running,
        BrokerClient(running.address, "rollout-0", Role.ROLLOUT) as broker,
    ):
        reason = "\ud800" + "x" * 2 * REASON_LENGTH
        await broker.give_back("0/0", 1, reason, Blame.SAMPLE)
        await broker.goodbye(reason)


class SilentLink:
    """A link over which no reply comes."""

    def open(self, address: str, max_frame_bytes: int) -> None: ...

    async def receive(self) -> list[bytes]:
        return await asyncio.get_running_loop().create_future()

    async def send(self, envelope: list[bytes]) -> None: ...

    def post(self, envelope: list[bytes]) -> None: ...

    def close(self) -> None: ...


async def test_a_request_that_is_cancelled_as_its_exchange_closes_is_cancelled() -> None:
    exchange = Exchange(
        SilentLink(), "", timeout_s=60, tries=1, patience_s=60, max_frame_bytes=2**20,
        rng=random.Random(0),
    )  # fmt: skip
    exchange.open()
    claimed: list[object] = []
    asked = asyncio.create_task(exchange.ask(GetStatus(), unclaimed=claimed.append))
    await asyncio.sleep(0)
    await exchange.close()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert claimed == []
