"""An HTTP port that those who only connect cannot use up.

aiohttp keeps a connection for an hour on which no request comes, and any number of them; who may
ask is looked at only after a whole head. So somebody without a key could take all file descriptors
of a process. Here there are few connections, and each is closed that keeps the port waiting.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import cast

from aiohttp import web

_CLOSING_S = 1.0  # for answers that are under way


@contextlib.asynccontextmanager
async def http_port(
    app: web.Application,
    listener: socket.socket,
    connections: int = 16,
    patience_s: float = 5.0,
) -> AsyncIterator[None]:
    """Serve for as long as the block runs; the socket is closed with it.

    Args:
        listener: listens already.
        connections: at once; what is beyond is closed unheard.
        patience_s: for the head of a request, from the beginning of the connection or the answer
            before, for a body that no handler reads, and for a client that takes nothing of an
            answer. A handler may take as long as it needs.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=_CLOSING_S,
        keepalive_timeout=patience_s,
        lingering_time=patience_s,  # for a body that no handler has read
    )
    with contextlib.closing(listener):
        _give_up_on_silence(listener, patience_s)
        await runner.setup()
        server = runner.server
        assert server is not None
        listening: asyncio.Server | None = None
        try:
            listening = await asyncio.get_running_loop().create_server(
                lambda: _Admission(server, connections), sock=listener
            )
            yield
        finally:
            if listening is not None:
                listening.close()
            await runner.cleanup()


class _Admission(asyncio.Protocol):
    """Gives a new connection to the server, or closes it."""

    def __init__(self, server: web.Server, connections: int) -> None:
        self._server, self._connections = server, connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if len(self._server.connections) >= self._connections:
            connection.abort()
            return
        handler = self._server()
        connection.set_protocol(handler)
        handler.connection_made(connection)


def _give_up_on_silence(listener: socket.socket, patience_s: float) -> None:
    """Have the system end a connection whose other side takes nothing for so long. Linux only."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience_s * 1000))
