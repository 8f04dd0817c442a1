"""The broker process: python -m broker.main --config FILE [--section.key value ...]"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
PURPOSE = "Hands out samples, takes in trajectories, feeds the learner; bounds their staleness."


def main() -> None:
    config = load_or_exit(sys.argv[1:], "python -m broker.main", PURPOSE)
    from common import lifecycle  # after --help, which must not wait for it
    from common.logs import configure_logging

    configure_logging("broker")
    try:
        lifecycle.run(lambda stop: serve(config, stop))
    except ConfigError as error:
        exit_with(error)
    except DataError as error:
        sys.exit(f"data error: {error}")


async def serve(config: RunConfig, stop: asyncio.Event) -> None:
    """Serve one run until it is over, or until `stop` is set and its members have left."""
    from broker.entry import Rules
    from broker.ledger import Ledger
    from broker.membership import Membership
    from broker.server import BrokerServer, ImageShelf
    from broker.service import BrokerService
    from broker.source import open_source
    from common.images import ImageStore

    source = open_source(config)
    assert config.data.train is not None, "open_source has read it"
    shelf = ImageShelf(ImageStore(config.data.train.parent), source.samples)
    ledger = Ledger(source, Rules.of(config))
    run_id = config.run.folder.name if config.run.folder else config.run.name
    service = BrokerService(
        ledger,
        Membership(config.broker.member_timeout_s),
        run_id=run_id,
        num_samples=len(source.samples),
    )
    max_frame_bytes = config.broker.max_frame_mib * 2**20
    address = config.broker.address
    async with BrokerServer(service, shelf, address, max_frame_bytes=max_frame_bytes) as server:
        if config.run.folder is not None:
            write_address(config.run.folder, server.address, run_id)
        logger.info(
            "listening on %s: %d steps of %d groups, staleness <= %d",
            server.address,
            ledger.total_steps,
            ledger.rules.groups_per_step,
            ledger.rules.max_staleness,
        )
        await server.serve(stop, config.cluster.drain_s)
    logger.info("done: %s", ledger.counts())


def write_address(folder: Path, address: str, run_id: str) -> None:
    """Tell the other processes where the broker is: RUN/broker.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / "broker.json.new"
    beside.write_text(json.dumps({"address": address, "run_id": run_id}), encoding="utf-8")
    os.replace(beside, folder / "broker.json")


if __name__ == "__main__":
    main()
