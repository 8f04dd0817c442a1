"""A ZeroMQ socket in an event loop: what it waits for, and what wakes it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from broker.net.sockets import AsyncSocket
from tests.waiting import LIMIT_S


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


async def test_a_receiver_is_woken_though_its_task_sends_meanwhile(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    """A send may read the signal of a message that has come."""
    server, client = AsyncSocket(context, zmq.ROUTER), AsyncSocket(context, zmq.DEALER)
    client.zmq.connect(f"tcp://127.0.0.1:{server.zmq.bind_to_random_port('tcp://127.0.0.1')}")
    try:
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            for number in range(300):
                received = tasks.create_task(server.receive())
                await client.send([b"%d" % number, b"more"])
                await server.send([b"no such peer", b""])
                peer, *parts = [frame.bytes for frame in await received]
                assert parts == [b"%d" % number, b"more"]
                await server.send([peer, b"reply"])
                assert [frame.bytes for frame in await client.receive()] == [b"reply"]
        with pytest.raises(zmq.Again):
            client.receive_now()
    finally:
        server.close(0)
        client.close(0)


async def test_a_sender_waits_for_room(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    sender, receiver = AsyncSocket(context, zmq.PUSH), AsyncSocket(context, zmq.PULL)
    try:
        sender.zmq.setsockopt(zmq.SNDHWM, 1)
        receiver.zmq.setsockopt(zmq.RCVHWM, 1)
        receiver.zmq.bind("inproc://room")
        sender.zmq.connect("inproc://room")
        with pytest.raises(zmq.Again):
            for _ in range(10):
                sender.send_now([b"full"])
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(sender.send([b"last"]))
            await asyncio.sleep(0)
            assert not waiting.done()
            while (await receiver.receive())[0].bytes != b"last":
                pass
    finally:
        sender.close(0)
        receiver.close(0)


class Hooked:
    """A ZeroMQ socket to which something happens just before it is asked for its events."""

    def __init__(self, socket: zmq.Socket[bytes], happens: Callable[[], None]) -> None:
        self._socket = socket
        self._happens: Callable[[], None] | None = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def getsockopt(self, option: int) -> Any:
        if option == zmq.EVENTS and (happens := self._happens) is not None:
            self._happens = None
            happens()
        return self._socket.getsockopt(option)


async def test_what_happens_as_a_socket_says_that_there_is_nothing_is_noticed(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    socket, peer = AsyncSocket(context, zmq.PAIR), context.socket(zmq.PAIR)
    hooked: Any
    try:
        socket.zmq.setsockopt(zmq.SNDHWM, 1)
        peer.setsockopt(zmq.RCVHWM, 1)
        peer.bind("inproc://peer")
        socket.zmq.connect("inproc://peer")
        number = 0
        with pytest.raises(zmq.Again):
            while True:
                socket.send_now([b"full"])
                number += 1

        def drain() -> None:
            for _ in range(number):
                peer.recv()

        plain = socket.zmq
        socket.zmq = hooked = Hooked(plain, drain)
        async with asyncio.timeout(LIMIT_S):
            await socket.send([b"last"])
        assert hooked._happens is None and peer.recv() == b"last"
        socket._room_came = asyncio.get_running_loop().create_future()  # of one that gave up
        socket.zmq = hooked = Hooked(plain, lambda: peer.send(b"news"))
        async with asyncio.timeout(LIMIT_S):
            assert (await socket.receive())[0].bytes == b"news"
        assert hooked._happens is None
    finally:
        socket.close(0)
        peer.close(0)


async def test_closing_ends_the_wait_for_room(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    socket = AsyncSocket(context, zmq.PUSH)  # without a peer there is no room
    waiting = asyncio.create_task(socket.send([b"never"]))
    await asyncio.sleep(0)
    socket.close(0)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(zmq.ZMQError):
            await waiting
