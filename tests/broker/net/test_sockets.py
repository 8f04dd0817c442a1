"""A ZeroMQ socket in an event loop: what it waits for, and what wakes it."""

import asyncio
from collections.abc import Iterator

import pytest
import zmq

from broker.net.sockets import AsyncSocket


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
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
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
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(sender.send([b"last"]))
            await asyncio.sleep(0)
            assert not waiting.done()
            while (await receiver.receive())[0].bytes != b"last":
                pass
    finally:
        sender.close(0)
        receiver.close(0)
