"""The broker process: python -m broker.main --config FILE [--section.key value ...]"""

import asyncio
import json
import logging
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from common.addresses import split_address
from common.config import RunConfig
from common.config_cli import exit_with, load_or_exit
from common.errors import FINAL_EXIT_CODE, ConfigError, DataError, VisionOpdError
from common.files import replace_json
from common.network import listening_socket
from common.spans import recorded

logger = logging.getLogger(__name__)
_AS_SOCKETS_NAME = {"*": "0.0.0.0", "localhost": "127.0.0.1"}  # what ZeroMQ binds
_DESCRIPTORS = 65_536  # a connection takes one; the soft limit of most systems is 1,024
_NO_KEYS = (
    "broker.keys is not set: every user of this machine may see, change and end this run. Fix: "
    "python -m broker.keys FOLDER, and --broker.keys FOLDER for each process of the run"
)
PURPOSE = "Hands out samples, takes in trajectories, feeds the learner; bounds their staleness."


def main() -> None:
    config = load_or_exit(sys.argv[1:], "python -m broker.main", PURPOSE)
    from common import lifecycle  # after --help, which must not wait for it
    from common.logs import configure_logging

    configure_logging("broker")
    allow_many_connections()
    try:
        lifecycle.run(lambda stop: serve(config, stop))
    except ConfigError as error:
        exit_with(error)
    except DataError as error:
        print(f"data error: {error}", file=sys.stderr)
        raise SystemExit(FINAL_EXIT_CODE) from None
    except VisionOpdError as error:  # the journal is damaged or cannot be written
        sys.exit(f"broker error: {error}")
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        if not isinstance(first, VisionOpdError):
            raise
        sys.exit(f"broker error: {first}")


async def serve(config: RunConfig, stop: asyncio.Event) -> None:
    """Serve one run until it is over, or until `stop` is set and its members have left.

    A run folder that holds a journal is gone on with where the journal ends.
    """
    from broker.net.transport import zmq_listener
    from broker.service.figures import figures_of
    from broker.service.heldout import heldout_samples
    from broker.service.images import DatasetImages
    from broker.service.opening import open_broker
    from broker.service.quarantine_file import QuarantineFile
    from broker.service.server import BrokerServer
    from common.images import ImageStore
    from common.scrape.port import scrape_port
    from common.training_data import open_source

    source = open_source(config)
    assert config.data.train is not None, "open_source has read it"
    images = DatasetImages(ImageStore(config.data.train.parent), source.samples)
    heldout = heldout_samples(config)
    if config.data.heldout is not None:
        images.add(ImageStore(config.data.heldout.parent), heldout.values())
    listener = zmq_listener(config.broker, _address(config))  # refuses before a journal is begun
    opened = open_broker(config, source, heldout)
    service, ledger = opened.service, opened.service.ledger
    max_frame_bytes = config.broker.max_frame_mib * 2**20
    folder = config.run.folder
    quarantine_file = None
    if folder is not None:
        quarantine_file = QuarantineFile(folder / "quarantine.jsonl", source.rows.refused)
    server = BrokerServer(
        service,
        images,
        listener,
        max_frame_bytes=max_frame_bytes,
        started_at=opened.started_at,
        quarantine_file=quarantine_file,
    )
    port = scrape_port(config, "broker", "broker", lambda: figures_of(server.status()))
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(recorded(folder, "broker", config.run.spans_mib))
            await stack.enter_async_context(server)
            await stack.enter_async_context(port)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            if folder is not None:
                write_address(folder, server.address, opened.run_id)
            logger.info(
                "listening on %s: %d steps of %d groups, staleness <= %d",
                server.address,
                ledger.steps.total_steps,
                ledger.rules.groups_per_step,
                ledger.rules.max_staleness,
            )
            if config.broker.keys is None:
                logger.warning(_NO_KEYS)
            syncs = tasks.create_task(opened.sync_at_intervals(), name="sync")
            await server.serve(stop, config.cluster.drain_s)
            syncs.cancel()
    finally:
        service.store.close()
    logger.info("done: %s", ledger.counts())


def _address(config: RunConfig) -> str:
    """Where to listen: a broker that comes back takes the port that its clients know."""
    address = config.broker.address
    if config.run.folder is None or not address.endswith(":0"):
        return address
    known = config.run.folder / "broker.json"
    try:
        last: str = json.loads(known.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError):
        return address
    known_port = split_address(last)[1]
    host, _ = split_address(address)
    if known_port is None or not _is_free(host, known_port):
        logger.warning("port %s, where this run's broker was, is taken by now", known_port)
        return address
    return address.removesuffix("0") + str(known_port)


def _is_free(host: str, port: int) -> bool:
    """Whether one can listen there: a port may be taken without anybody who answers at it."""
    try:
        listening_socket(_AS_SOCKETS_NAME.get(host, host), port).close()
    except OSError:
        return False
    return True


def allow_many_connections() -> None:
    """Take all descriptors that the system lets us: idle connections then keep no member out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write_address(folder: Path, address: str, run_id: str) -> None:
    """Tell the other processes where the broker is: RUN/broker.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / "broker.json", {"address": address, "run_id": run_id})


if __name__ == "__main__":
    main()
