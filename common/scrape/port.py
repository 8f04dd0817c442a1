"""The port where Prometheus reads a process's figures, and the file by which it finds it."""

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from common.addresses import join_address
from common.config import RunConfig
from common.engines.keys import read_key
from common.errors import ConfigError
from common.files import replace_text
from common.http_gate import Gate
from common.http_port import http_port
from common.network import listening_socket, primary_host
from common.scrape.collector import Readings, registry_of

logger = logging.getLogger(__name__)
FOLDER = "scrape"  # of the run folder
_PORTS_TRIED = 64  # from scrape.port on
_EVERYWHERE = ("0.0.0.0", "::")
_LOOKUP_S = 5.0  # for the address of scrape.host
_KEPT_S = 0.5  # an answer serves all who ask within it: it costs the process's loop some ms


@contextlib.asynccontextmanager
async def scrape_port(
    config: RunConfig,
    role: str,
    process: str,
    read: Callable[[], Readings],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[None]:
    """Serve GET /metrics on the running loop for as long as the block runs.

    Where that cannot be it is logged, and the block runs without.

    Args:
        process: its name, as in RUN/logs.
        read: current figures, by name in `common.scrape.exported`; called when somebody asks, at
            most every half second for each form of the text.
        clock: seconds from any beginning.
    """
    async with contextlib.AsyncExitStack() as stack:
        if config.scrape.enabled:
            try:
                labels = {"run": _run_name(config), "role": role, "process": process}
                host, port = await stack.enter_async_context(
                    _listening(config, labels, read, clock)
                )
                logger.info("Prometheus may ask http://%s/metrics", join_address(host, port))
                if config.run.folder is not None:
                    path = _target_file(config.run.folder, process)
                    stack.enter_context(_announced(path, join_address(host, port), labels))
            except (OSError, ConfigError) as error:
                logger.warning("Prometheus cannot read or find this process: %s", error)
        yield


def scrape_key(config: RunConfig) -> str | None:
    """The key that a scrape must carry; None means that none is asked for. Raises ConfigError."""
    path = config.scrape.key_file
    return None if path is None else read_key(path, "scrape.key_file")


def _run_name(config: RunConfig) -> str:
    return config.run.name if config.run.folder is None else config.run.folder.resolve().name


@contextlib.asynccontextmanager
async def _listening(
    config: RunConfig,
    labels: dict[str, str],
    read: Callable[[], Readings],
    clock: Callable[[], float],
) -> AsyncIterator[tuple[str, int]]:
    """Host and port by which the figures can be read.

    Raises:
        OSError, ConfigError: there is no such port, or no such key.
    """
    host = config.scrape.host
    app = _application(Gate(host, scrape_key(config)), registry_of(read, labels), clock)
    listener = _free_socket(await _address_of(host), config.scrape.port)
    async with http_port(app, listener):
        yield primary_host() if host in _EVERYWHERE else host, listener.getsockname()[1]


async def _address_of(host: str) -> str:
    """The address of a host, looked up beside the loop. Raises OSError."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        async with asyncio.timeout(_LOOKUP_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(f"scrape.host = {host!r}: not looked up within {_LOOKUP_S:g} s") from None
    except OSError as error:
        raise OSError(f"scrape.host = {host!r}: {error}") from None
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


def _free_socket(address: str, first: int) -> socket.socket:
    """A socket that listens at the first port that is free. Raises OSError: none of them is."""
    last = min(first + _PORTS_TRIED, 65536) - 1 if first else 0
    for port in range(first, last):
        try:
            return listening_socket(address, port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    return listening_socket(address, last)


def _application(
    gate: Gate, registry: CollectorRegistry, clock: Callable[[], float]
) -> web.Application:
    has_failed = False
    kept: dict[str, tuple[float, bytes]] = {}  # by form: when it was made, text

    async def on_metrics(request: web.Request) -> web.Response:
        nonlocal has_failed
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        made_at, body = kept.get(content_type, (-math.inf, b""))
        if clock() < made_at + _KEPT_S:
            return web.Response(body=body, headers={"Content-Type": content_type})
        try:
            body = encode(registry)
        except Exception:  # the boundary: a mistake in a figure must not cost more than a scrape
            if not has_failed:
                logger.exception("figures cannot be told to Prometheus")
            has_failed = True
            return web.Response(status=500)
        kept[content_type] = clock(), body
        return web.Response(body=body, headers={"Content-Type": content_type})

    @web.middleware
    async def gated(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (refusal := gate.refusal(request.headers.items())) is not None:
            return web.Response(text=f"{refusal.reason}\n", status=refusal.status)
        return await handler(request)

    app = web.Application(middlewares=[gated])
    app.router.add_get("/metrics", on_metrics)
    return app


def forget_target(run_folder: Path, process: str) -> None:
    """Remove the file of a process that has ended for good: one that was killed leaves it."""
    with contextlib.suppress(OSError):
        _target_file(run_folder, process).unlink()


def _target_file(run_folder: Path, process: str) -> Path:
    return run_folder / FOLDER / f"{process}.json"


@contextlib.contextmanager
def _announced(path: Path, address: str, labels: dict[str, str]) -> Iterator[None]:
    """Have the file name the target, for as long as the block runs. Raises OSError.

    What a killed process left there is replaced; a later life's file is left alone.
    """
    content = json.dumps([{"targets": [address], "labels": labels}]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, content)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                path.unlink()
