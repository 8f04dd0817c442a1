"""The broker of a benchmark in a process of its own, in memory, on a free port."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from broker.net.transport import zmq_listener
from broker.service.images import DatasetImages
from broker.service.opening import open_broker
from broker.service.server import BrokerServer
from common import lifecycle
from common.config import RunConfig
from common.dataset import read_samples
from common.images import ImageStore
from common.source import SampleSource
from tests.bench.contest.children import serving
from tests.broker.support import make_sample

_DRAIN_S = 0.1


@contextlib.contextmanager
def running_broker(config: RunConfig) -> Iterator[str]:
    """Gives its address. Without a dataset it has one made-up sample."""
    with serving(_serve, config) as address:
        yield address


def _serve(say_address: Callable[[str], None], config: RunConfig) -> None:
    """Serve as broker.main does."""
    train = config.data.train
    samples = [make_sample(0)] if train is None else read_samples(train)[0]
    folder = Path(".") if train is None else train.parent

    async def serve(stop: asyncio.Event) -> None:
        source = SampleSource(samples, epochs=config.data.epochs, seed=config.run.seed)
        opened = open_broker(config, source)
        server = BrokerServer(
            opened.service,
            DatasetImages(ImageStore(folder), samples),
            zmq_listener(config.broker, config.broker.address),
            max_frame_bytes=config.broker.max_frame_mib * 2**20,
            started_at=opened.started_at,
        )
        async with server:
            say_address(server.address)
            await server.serve(stop, _DRAIN_S)

    lifecycle.run(serve)
