"""A ZeroMQ socket in an event loop: it waits where ZeroMQ would, and only there.

`zmq.asyncio` makes futures and callbacks of every message. Here one that has come, or that there is
room for, is a plain call.
"""

import asyncio

import zmq

_IN, _OUT = int(zmq.POLLIN), int(zmq.POLLOUT)  # flags of an enumeration cost much more


class AsyncSocket:
    """Belongs to the loop that it is made in. One task may receive, any number may send.

    Args:
        kind: as ZeroMQ names it: zmq.ROUTER, zmq.DEALER ...
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int) -> None:
        self.zmq = context.socket(kind)  # for its options, and to bind or connect
        self._loop = asyncio.get_running_loop()
        self._fd = int(self.zmq.getsockopt(zmq.FD))
        self._message_came: asyncio.Future[None] | None = None
        self._room_came: asyncio.Future[None] | None = None
        self._loop.add_reader(self._fd, self._look)

    async def receive(self) -> list[zmq.Frame]:
        """The parts of the next message."""
        while True:
            try:
                return self.receive_now()
            except zmq.Again:
                waiting = self._message_came = self._loop.create_future()
                self._look()  # it may have come while it was read that there is none
                await waiting

    def receive_now(self) -> list[zmq.Frame]:
        """The parts of a message that is here already. Raises zmq.Again: there is none."""
        try:
            frames = [self.zmq.recv(zmq.NOBLOCK, copy=False)]
            while frames[-1].more:
                frames.append(self.zmq.recv(zmq.NOBLOCK, copy=False))
            return frames
        finally:
            if self._room_came is not None:
                self._look()  # what was told of room may have been read on the way

    async def send(self, parts: list[bytes]) -> None:
        """Wait for room, and send."""
        while True:
            try:
                return self.send_now(parts)
            except zmq.Again:
                waiting = self._room_came = self._room_came or self._loop.create_future()
                self._look()
                await asyncio.shield(waiting)

    def send_now(self, parts: list[bytes]) -> None:
        """Send. Raises zmq.Again: there is no room."""
        try:
            self.zmq.send_multipart(parts, zmq.NOBLOCK)
        finally:
            if self._message_came is not None:
                self._look()  # what was told of a message that came may have been read on the way

    def close(self, linger_ms: int) -> None:
        self._loop.remove_reader(self._fd)
        self.zmq.close(linger=linger_ms)
        if self._room_came is not None:
            _wake(self._room_came)  # to find that it is closed

    def _look(self) -> None:
        """See what the socket has to tell, which it tells once, and wake who waits for it."""
        events = int(self.zmq.getsockopt(zmq.EVENTS))
        if events & _IN and (waiting := self._message_came) is not None:
            self._message_came = None
            _wake(waiting)
        if events & _OUT and (waiting := self._room_came) is not None:
            self._room_came = None
            _wake(waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # it may have been cancelled
        waiting.set_result(None)
