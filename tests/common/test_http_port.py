"""What an HTTP port grants those who only connect, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvloop
from aiohttp import web

from common.http_port import http_port
from common.network import listening_socket
from tests.waiting import LIMIT_S

PATIENCE_S = 0.2
REQUEST = b"GET /short HTTP/1.1\r\nHost: here\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Handlers:
    """Answers in several ways."""

    def __init__(self) -> None:
        self.has_given_up = asyncio.Event()  # the long answer

    async def short(self, request: web.Request) -> web.Response:
        return web.Response(text="answer")

    async def late(self, request: web.Request) -> web.Response:
        await asyncio.sleep(4 * PATIENCE_S)
        return web.Response(text="answer")

    async def long(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(bytes(2**20))
        finally:
            self.has_given_up.set()


@contextlib.asynccontextmanager
async def served(
    handlers: Handlers, connections: int = 16, patience_s: float = PATIENCE_S
) -> AsyncIterator[int]:
    """The port."""
    app = web.Application()
    for name in ("short", "late", "long"):
        app.router.add_get(f"/{name}", getattr(handlers, name))
    listener = listening_socket("127.0.0.1")
    port = listener.getsockname()[1]
    async with asyncio.timeout(LIMIT_S), http_port(app, listener, connections, patience_s):
        yield port


@contextlib.asynccontextmanager
async def connected(port: int, sent: bytes = b"") -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def received(streams: Streams) -> bytes:
    """All that comes before the other side ends the connection."""
    try:
        return await streams[0].read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", 0),
        (b"GET /sho", 0),
        (REQUEST[:-2], 0),
        (REQUEST, 1),  # and then nothing: kept alive in vain
        (REQUEST + REQUEST[:-2], 1),
        (REQUEST[:-2] + b"Content-Length: 10\r\n\r\nhalf", 1),
    ],
)
async def test_a_connection_without_a_whole_request_is_closed(sent: bytes, answers: int) -> None:
    async with served(Handlers()) as port, connected(port, sent) as connection:
        assert (await received(connection)).count(b"answer") == answers


async def test_what_is_beyond_the_limit_is_closed_at_once_until_there_is_room() -> None:
    async with served(Handlers(), connections=2, patience_s=10 * LIMIT_S) as port:
        async with connected(port), connected(port):
            for _ in range(3):
                async with connected(port) as beyond:
                    assert await received(beyond) == b""
        text = b""
        while not text:  # the port learns of an end when its loop comes round
            async with connected(port, REQUEST[:-2] + b"Connection: close\r\n\r\n") as connection:
                text = await received(connection)
        assert text.endswith(b"answer")


async def test_who_takes_nothing_of_an_answer_is_given_up() -> None:
    handlers = Handlers()
    async with served(handlers) as port:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.connect(("127.0.0.1", port))
            deaf.sendall(REQUEST.replace(b"short", b"long"))
            await handlers.has_given_up.wait()


async def test_an_answer_may_take_its_time() -> None:
    asked = REQUEST.replace(b"short", b"late")
    async with served(Handlers()) as port, connected(port, asked) as connection:
        assert (await received(connection)).endswith(b"answer")


def test_it_is_so_on_the_loop_of_the_processes_too() -> None:
    async def all_of_it() -> None:
        for sent, answers in ((b"", 0), (REQUEST[:-2], 0), (REQUEST, 1)):
            await test_a_connection_without_a_whole_request_is_closed(sent, answers)
        await test_what_is_beyond_the_limit_is_closed_at_once_until_there_is_room()
        await test_who_takes_nothing_of_an_answer_is_given_up()
        await test_an_answer_may_take_its_time()

    uvloop.run(all_of_it())
