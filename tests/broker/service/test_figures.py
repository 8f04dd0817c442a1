"""The broker's status as figures for Prometheus."""

from pathlib import Path

from prometheus_client.exposition import generate_latest

from broker.protocol import Blame, Status
from broker.service.figures import figures_of
from broker.service.opening import open_broker
from common.config_cli import build
from common.scrape.collector import registry_of
from common.scrape.exported import EXPORTED
from common.training_data import open_source
from tests.broker.support import make_group, make_rules, make_source, running_broker, write_dataset
from tests.prometheus import complaints


async def status_of_a_run() -> Status:
    """One with three leases of two trajectories, of which one is trained and one given back."""
    rules = make_rules(groups_per_step=1, max_staleness=2)
    async with (
        running_broker(rules, make_source(8)) as broker,
        broker.client("rollout-0") as rollout,
        broker.client("learner-0") as learner,
    ):
        trained, _, given_back = (await rollout.lease(3, 0, wait_s=0)).leases
        await rollout.give_back(given_back.group_id, given_back.attempt, "no reason", Blame.NOBODY)
        await rollout.submit(make_group(trained, 0))
        await learner.take(1, wait_s=5)
        await learner.ack(1)
        return broker.server.status()


async def test_the_books_are_told_by_place_and_balance() -> None:
    figures = figures_of(await status_of_a_run())
    trajectories = figures["broker/trajectories"]
    assert isinstance(trajectories, dict)
    assert (trajectories["trained"], trajectories["in_flight"]) == (2, 2)
    assert sum(trajectories.values()) == figures["broker/trajectories_issued"] == 6
    expired = figures["broker/trajectories_expired"]
    assert isinstance(expired, dict) and sum(expired.values()) == trajectories["expired"] == 2
    assert figures["broker/version"] == 1 and figures["broker/slots"] == 3
    assert figures["broker/members"] == {"rollout": 1, "learner": 1}
    assert figures["broker/member_version"] == {}, "no server has weights yet"


async def test_versions_are_those_that_servers_have_acknowledged() -> None:
    rules = make_rules(groups_per_step=1, max_staleness=1)
    async with (
        running_broker(rules, make_source(8)) as broker,
        broker.client("rollout-0") as rollout,
        broker.client("rollout-1"),
        broker.client("learner-0") as learner,
    ):
        await rollout.ack_weights(0)
        (lease,) = (await rollout.lease(1, 0, wait_s=0)).leases
        await rollout.submit(make_group(lease, 0))
        await learner.take(1, wait_s=5)
        await learner.ack(1)
        figures = figures_of(broker.server.status())
    assert figures["broker/version"] == 1
    assert figures["broker/member_version"] == {"rollout-0": 0}


async def test_all_of_them_are_declared_also_those_of_a_store_on_disk(tmp_path: Path) -> None:
    figures = figures_of(await status_of_a_run())
    train = write_dataset(tmp_path, 5)
    folder, learner = tmp_path / "run", {"groups_per_step": 1}
    config = build({"run": {"folder": folder}, "data": {"train": train}, "learner": learner})
    opened = open_broker(config, open_source(config), {})
    on_disk = figures_of(opened.service.status(1.0))
    opened.service.store.close()
    assert on_disk["broker/journal_records"] >= 1
    assert (figures.keys() | on_disk.keys()) - EXPORTED.keys() == set()
    text = generate_latest(registry_of(lambda: {**on_disk, **figures}, {})).decode()
    assert 'vision_opd_broker_trajectories{state="trained"} 2.0' in text
    assert complaints(text) == ""
