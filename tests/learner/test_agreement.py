"""A learner with other rules than the broker's is refused, before it undoes or trains anything."""

import asyncio
from typing import Any

import pytest

from broker.protocol import Welcome
from common.config_cli import build
from common.errors import ConfigError
from learner.agreement import check_agreement
from learner.feed import Feed
from tests.broker.support import make_rules, make_source, running_broker


def welcome(groups_per_step: int, max_staleness: int) -> Welcome:
    return Welcome(
        run_id="run",
        protocol_version=1,
        groups_per_step=groups_per_step,
        max_staleness=max_staleness,
        total_steps=3,
        heartbeat_s=2.0,
        max_frame_bytes=2**20,
    )


def config(groups_per_step: int, max_staleness: int) -> Any:
    return build(
        {
            "learner": {"groups_per_step": groups_per_step},
            "broker": {"max_staleness": max_staleness},
        }
    )


def test_the_same_rules_are_agreed() -> None:
    check_agreement(welcome(4, 1), config(4, 1))


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (
            (8, 1),
            "learner.groups_per_step = 8 here, 4 at the broker. Fix: --learner.groups_per_step 4, "
            "or start the broker with this configuration",
        ),
        (
            (4, 0),
            "broker.max_staleness = 0 here, 1 at the broker. Fix: --broker.max_staleness 1, "
            "or start the broker with this configuration",
        ),
        (
            (8, 2),
            "learner.groups_per_step = 8 here, 4 at the broker, broker.max_staleness = 2 here, "
            "1 at the broker. Fix: --learner.groups_per_step 4 --broker.max_staleness 1, "
            "or start the broker with this configuration",
        ),
    ],
)
def test_other_rules_are_named_with_both_values(ours: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_agreement(welcome(4, 1), config(*ours))
    assert str(caught.value) == message


async def test_a_feed_with_other_rules_ends_before_it_resumes() -> None:
    preparation: Any = None  # no batch comes so far
    async with running_broker(make_rules(2, 1), make_source(4)) as broker:
        feed = Feed(config(2, 0), broker.address, "learner-0", preparation, step=3)
        with pytest.raises(ConfigError, match=r"broker\.max_staleness = 0 here, 1 at the broker"):
            await asyncio.to_thread(feed.__enter__)
        assert broker.service.ledger.steps._resumed_by is None
