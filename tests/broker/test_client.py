"""Holds broker/exchange.py."""

from broker.client import BrokerClient
from broker.protocol import REASON_LENGTH, Blame, Role
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
